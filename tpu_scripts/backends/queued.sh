# shellcheck shell=bash
# TPU slices as queued resources, the API for v4 and v5e. A host is NODE/WORKER.

# shellcheck source=tpu_scripts/backends/vm.sh
source "$SCRIPTS/backends/vm.sh"

backend_check() {
  need project zone
  [[ "$GENERATION" == v4 || "$GENERATION" == v5e ]] ||
    die "--topology=$GPST_TOPOLOGY: queued resources serve v4 and v5e; use --backend=mig or gke"
  WHERE=("--project=$GPST_PROJECT" "--zone=$GPST_ZONE")
}

backend_create() {
  local -a command=(gcloud compute tpus queued-resources create "$GPST_NAME" "${WHERE[@]}"
    "--runtime-version=$RUNTIME" "--labels=gpst-run=$GPST_NAME")
  if [[ "$GENERATION" == v4 ]]; then
    command+=(--type=v4 "--topology=$SHAPE") # the number of cores does not determine the shape
  else
    command+=("--accelerator-type=$ACCELERATOR_TYPE")
  fi
  if ((GPST_NUM_SLICES > 1)); then
    command+=("--node-count=$GPST_NUM_SLICES" "--node-prefix=$GPST_NAME")
  else
    command+=("--node-id=$GPST_NAME")
  fi
  if $GPST_SPOT; then command+=(--spot); fi
  if $GPST_RESERVED; then command+=(--reserved); fi
  if [[ -n "$GPST_RESERVATION" ]]; then command+=("--reservation=$GPST_RESERVATION"); fi
  if [[ -n "$GPST_NETWORK" ]]; then command+=("--network=$GPST_NETWORK"); fi
  if [[ -n "$GPST_SERVICE_ACCOUNT" ]]; then command+=("--service-account=$GPST_SERVICE_ACCOUNT"); fi
  run "${command[@]}"
}

# missing, waiting, ready, broken or unknown
backend_state() {
  local state code=0 message
  message="$(mktemp)"
  state="$(ask ACTIVE gcloud compute tpus queued-resources describe "$GPST_NAME" "${WHERE[@]}" \
    '--format=value(state.state)' 2>"$message")" || code=$?
  if ((code)); then
    if grep -qiE 'NOT_FOUND|not found' "$message"; then echo missing; else echo unknown; fi
    cat "$message" >&2
  else
    case "$state" in
      ACTIVE) echo ready ;;
      CREATING | ACCEPTED | PROVISIONING | WAITING_FOR_RESOURCES | DELETING) echo waiting ;;
      SUSPENDING | SUSPENDED | FAILED) echo broken ;;
      *) echo unknown ;;
    esac
  fi
  rm -f "$message"
}

backend_hosts() {
  local slice worker node
  for ((slice = 0; slice < GPST_NUM_SLICES; slice++)); do
    node="$GPST_NAME"
    if ((GPST_NUM_SLICES > 1)); then node+="-$slice"; fi
    for ((worker = 0; worker < HOSTS; worker++)); do echo "$node/$worker"; done
  done
}

to_shell() { # HOST TEXT
  COMMAND=(gcloud compute tpus tpu-vm ssh "${1%/*}" "${WHERE[@]}" "--worker=${1#*/}" --quiet "--command=$2")
}

to_copy() { # FILE HOST PATH
  COMMAND=(gcloud compute tpus tpu-vm scp "$1" "${2%/*}:$3" "${WHERE[@]}" "--worker=${2#*/}" --quiet)
}

host_environment() { :; } # node metadata name the slice and its hosts

backend_delete() {
  run gcloud compute tpus queued-resources delete "$GPST_NAME" "${WHERE[@]}" --force --quiet
}
