# shellcheck shell=bash
# TPU slices as managed instance groups of Compute Engine, for v5p, v6e and later: one instance
# template, one workload policy with the topology, and one group per slice, created all or nothing.
# A host is an instance.

# shellcheck source=tpu_scripts/backends/vm.sh
source "$SCRIPTS/backends/vm.sh"

backend_check() {
  need project zone
  [[ -n "$IMAGE_FAMILY" ]] ||
    die "--topology=$GPST_TOPOLOGY: instance groups serve v5p, v6e and tpu7x; use --backend=queued or gke"
  WHERE=("--project=$GPST_PROJECT" "--zone=$GPST_ZONE")
  REGION=("--project=$GPST_PROJECT" "--region=${GPST_ZONE%-*}")
  GROUPS_=()
  local slice
  for ((slice = 0; slice < GPST_NUM_SLICES; slice++)); do GROUPS_+=("$GPST_NAME-$slice"); done
}

# Creates a resource unless it exists: unless_there DESCRIBE... -- CREATE...
unless_there() {
  local -a describe=()
  while [[ "$1" != -- ]]; do
    describe+=("$1")
    shift
  done
  shift
  if ! $GPST_DRY_RUN && "${describe[@]}" '--format=value(name)' >/dev/null 2>&1; then return 0; fi
  run "$@"
}

backend_create() {
  local -a template=(gcloud compute instance-templates create "$GPST_NAME" "--project=$GPST_PROJECT"
    "--machine-type=$MACHINE" --maintenance-policy=TERMINATE
    "--image-family=${GPST_IMAGE_FAMILY:-$IMAGE_FAMILY}" --image-project=ubuntu-os-accelerator-images
    --boot-disk-size=200GB --boot-disk-type=hyperdisk-balanced --scopes=cloud-platform
    "--labels=gpst-run=$GPST_NAME")
  if [[ "$MACHINE" == ct5p-* ]]; then template=("${template[@]/hyperdisk-balanced/pd-balanced}"); fi
  if $GPST_SPOT; then template+=(--provisioning-model=SPOT --instance-termination-action=STOP); fi
  if $GPST_RESERVED; then
    need reservation
    template+=(--provisioning-model=RESERVATION_BOUND --reservation-affinity=specific "--reservation=$GPST_RESERVATION")
  fi
  if [[ -n "$GPST_NETWORK" ]]; then template+=("--network=$GPST_NETWORK"); fi
  if [[ -n "$GPST_SERVICE_ACCOUNT" ]]; then template+=("--service-account=$GPST_SERVICE_ACCOUNT"); fi
  unless_there gcloud compute instance-templates describe "$GPST_NAME" "--project=$GPST_PROJECT" -- \
    "${template[@]}" || return
  unless_there gcloud compute resource-policies describe "$GPST_NAME" "${REGION[@]}" -- \
    gcloud beta compute resource-policies create workload-policy "$GPST_NAME" "${REGION[@]}" \
    --type=HIGH_THROUGHPUT "--accelerator-topology=$SHAPE" || return
  local group
  for group in "${GROUPS_[@]}"; do
    unless_there gcloud compute instance-groups managed describe "$group" "${WHERE[@]}" -- \
      gcloud alpha compute instance-groups managed create "$group" "${WHERE[@]}" \
      "--template=$GPST_NAME" "--size=$HOSTS" "--base-instance-name=$group" \
      "--workload-policy=projects/$GPST_PROJECT/regions/${GPST_ZONE%-*}/resourcePolicies/$GPST_NAME" \
      --target-size-policy-mode=bulk --default-action-on-vm-failure=do-nothing || return
  done
}

list_group() { # GROUP FORMAT
  gcloud compute instance-groups managed list-instances "$1" "${WHERE[@]}" "--format=$2"
}

# missing, waiting, ready, broken or unknown
backend_state() {
  local group status message all=''
  if $GPST_DRY_RUN; then
    for group in "${GROUPS_[@]}"; do
      ask '' gcloud compute instance-groups managed list-instances "$group" "${WHERE[@]}" '--format=value(instanceStatus)'
    done
    echo ready
    return
  fi
  message="$(mktemp)"
  for group in "${GROUPS_[@]}"; do
    if ! status="$(list_group "$group" 'value(instanceStatus)' 2>"$message")"; then
      if grep -qiE 'NOT_FOUND|not found' "$message"; then status=MISSING; else status=UNKNOWN; fi
      cat "$message" >&2
    fi
    if (($(wc -w <<<"$status") < HOSTS)) && [[ "$status" != [MU]* ]]; then status+=' PENDING'; fi
    all+=" $status"
  done
  rm -f "$message"
  case "$all" in
    *STOP* | *TERMINATED* | *SUSPEND*) echo broken ;;
    *UNKNOWN*) echo unknown ;;
    *MISSING*) echo missing ;;
    *PENDING* | *PROVISIONING* | *STAGING*) echo waiting ;;
    *) echo ready ;;
  esac
}

backend_hosts() {
  local group worker
  for group in "${GROUPS_[@]}"; do
    if $GPST_DRY_RUN; then # real names end with random letters
      ask '' gcloud compute instance-groups managed list-instances "$group" "${WHERE[@]}" '--format=value(instance.basename())'
      for ((worker = 0; worker < HOSTS; worker++)); do echo "$group-$(printf '%04d' "$worker")"; done
    else
      list_group "$group" 'value(instance.basename())' | sort
    fi
  done
}

to_shell() { # HOST TEXT
  COMMAND=(gcloud compute ssh "$1" "${WHERE[@]}" --quiet "--command=$2")
}

to_copy() { # FILE HOST PATH
  COMMAND=(gcloud compute scp "$1" "$2:$3" "${WHERE[@]}" --quiet)
}

# Multislice settings, which hosts cannot get elsewhere; within a slice the instance metadata name
# the hosts.
host_environment() { # HOST NUMBER
  ENVIRONMENT=()
  if ((GPST_NUM_SLICES == 1)); then return; fi
  ENVIRONMENT=("MEGASCALE_COORDINATOR_ADDRESS=$FIRST_HOST" "MEGASCALE_NUM_SLICES=$GPST_NUM_SLICES"
    "MEGASCALE_SLICE_ID=$(($2 / HOSTS))")
}

backend_launch() {
  train_command "$RUN_PYTHON"
  FIRST_HOST="$(backend_hosts | sed -n 1p)" # instances in a network resolve each other's names
  for_all_hosts launch_host
}

backend_delete() {
  local group
  for group in "${GROUPS_[@]}"; do
    run gcloud compute instance-groups managed delete "$group" "${WHERE[@]}" --quiet || true
  done
  run gcloud compute resource-policies delete "$GPST_NAME" "${REGION[@]}" --quiet || true
  run gcloud compute instance-templates delete "$GPST_NAME" "--project=$GPST_PROJECT" --quiet || true
}
