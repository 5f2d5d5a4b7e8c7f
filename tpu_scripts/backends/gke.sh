# shellcheck shell=bash
# TPU slices as node pools of an existing GKE cluster, and the run as a JobSet. A host is a pod.
#
# The JobSet recreates the pods after a preemption, at most --max_tries times; the code is in the
# image.

RUN_PYTHON=python
JOBSET_VERSION=v0.8.0

backend_check() {
  need project zone cluster image
  [[ -n "$GKE_ACCELERATOR" ]] || die "--topology=$GPST_TOPOLOGY: gke is for TPUs; use --backend=slurm"
  CLUSTER=("--project=$GPST_PROJECT" "--cluster=$GPST_CLUSTER" "--location=${GPST_ZONE%-*}")
  KUBECTL=(kubectl "--context=gke_${GPST_PROJECT}_${GPST_ZONE%-*}_$GPST_CLUSTER" "--namespace=$GPST_NAMESPACE")
  POOLS=()
  local slice
  for ((slice = 0; slice < GPST_NUM_SLICES; slice++)); do POOLS+=("$GPST_NAME-$slice"); done
}

backend_create() {
  local pool
  local -a options=("--node-locations=$GPST_ZONE" "--machine-type=$MACHINE" "--tpu-topology=$SHAPE"
    "--num-nodes=$HOSTS" --scopes=cloud-platform "--labels=gpst-run=$GPST_NAME")
  if $GPST_SPOT; then options+=(--spot); fi
  if $GPST_RESERVED; then
    need reservation
    options+=(--reservation-affinity=specific "--reservation=$GPST_RESERVATION")
  fi
  if [[ -n "$GPST_SERVICE_ACCOUNT" ]]; then options+=("--service-account=$GPST_SERVICE_ACCOUNT"); fi
  if [[ "$GENERATION" == tpu7x ]] && ((HOSTS > 1)); then # node pools of tpu7x need an explicit policy
    run gcloud beta compute resource-policies create workload-policy "$GPST_NAME" \
      "--project=$GPST_PROJECT" "--region=${GPST_ZONE%-*}" --type=HIGH_THROUGHPUT \
      "--accelerator-topology=$SHAPE" || return
    options+=("--placement-policy=$GPST_NAME")
  fi
  for pool in "${POOLS[@]}"; do
    if ! $GPST_DRY_RUN && [[ "$(pool_state "$pool")" != missing ]]; then continue; fi
    run gcloud container node-pools create "$pool" "${CLUSTER[@]}" "${options[@]}" --quiet || return
  done
}

pool_state() { # POOL: a state of backend_state
  local state code=0 message
  message="$(mktemp)"
  state="$(ask RUNNING gcloud container node-pools describe "$1" "${CLUSTER[@]}" \
    '--format=value(status)' 2>"$message")" || code=$?
  if ((code)); then
    if grep -qiE 'NOT_FOUND|not found' "$message"; then echo missing; else echo unknown; fi
  else
    case "$state" in
      # GKE itself replaces lost nodes of a pool.
      RUNNING | RUNNING_WITH_ERROR | RECONCILING) echo ready ;;
      PROVISIONING | STOPPING) echo waiting ;;
      ERROR) echo broken ;;
      *) echo unknown ;;
    esac
  fi
  cat "$message" >&2
  rm -f "$message"
}

backend_state() {
  local pool states=''
  for pool in "${POOLS[@]}"; do states+=" $(pool_state "$pool")"; done
  local state
  for state in broken unknown missing waiting; do
    if [[ "$states" == *$state* ]]; then
      echo "$state"
      return
    fi
  done
  echo ready
}

backend_sync() {
  run docker build "--file=$ROOT/docker/tpu.Dockerfile" "--tag=$GPST_IMAGE" "$ROOT" && run docker push "$GPST_IMAGE"
}

backend_setup() {
  run gcloud container clusters get-credentials "$GPST_CLUSTER" "--project=$GPST_PROJECT" \
    "--location=${GPST_ZONE%-*}" &&
    run "${KUBECTL[@]}" apply --server-side \
      "--filename=https://github.com/kubernetes-sigs/jobset/releases/download/$JOBSET_VERSION/manifests.yaml"
}

backend_launch() {
  train_command "$RUN_PYTHON"
  if [[ -n "$(secret_lines)" ]]; then run_with secret_manifest "${KUBECTL[@]}" apply --filename=- || return; fi
  # Not `apply`, which would change a running JobSet.
  run_with jobset_manifest "${KUBECTL[@]}" create --filename=-
}

secret_manifest() {
  if $GPST_DRY_RUN; then
    secret_lines | sed 's/=.*/=***/' | python3 "$SCRIPTS/render_jobset.py" secret "$GPST_NAME"
  else
    secret_lines | python3 "$SCRIPTS/render_jobset.py" secret "$GPST_NAME"
  fi
}

jobset_manifest() {
  local -a options=("--name=$GPST_NAME" "--image=$GPST_IMAGE" "--slices=$GPST_NUM_SLICES"
    "--hosts=$HOSTS" "--host_chips=$HOST_CHIPS" "--accelerator=$GKE_ACCELERATOR" "--topology=$SHAPE"
    "--max_restarts=$GPST_MAX_TRIES" "--queue=$GPST_QUEUE" "--bucket=$GPST_BUCKET" "--mount=$GPST_MOUNT"
    "--service_account=$GPST_SERVICE_ACCOUNT")
  if [[ -n "$(secret_lines)" ]]; then options+=(--secret); fi
  if $GPST_SPOT; then options+=(--spot); fi
  python3 "$SCRIPTS/render_jobset.py" jobset "${options[@]}" -- "${TRAIN[@]}"
}

backend_hosts() {
  if $GPST_DRY_RUN; then
    ask '' "${KUBECTL[@]}" get pods "--selector=jobset.sigs.k8s.io/jobset-name=$GPST_NAME" '--output=name'
    local slice worker
    for ((slice = 0; slice < GPST_NUM_SLICES; slice++)); do
      for ((worker = 0; worker < HOSTS; worker++)); do echo "pod/$GPST_NAME-slice-job-$slice-$worker"; done
    done
  else
    "${KUBECTL[@]}" get pods "--selector=jobset.sigs.k8s.io/jobset-name=$GPST_NAME" --output=name \
      --sort-by=.metadata.name
  fi
}

backend_on() { # HOST NUMBER WORD...
  local host="$1"
  shift 2
  run "${KUBECTL[@]}" exec "$host" -- "$@"
}

backend_run_state() {
  local conditions code=0
  conditions="$(ask '' "${KUBECTL[@]}" get jobset "$GPST_NAME" \
    '--output=jsonpath={range .status.conditions[?(@.status=="True")]}{.type}={.reason} {end}' 2>&1)" || code=$?
  if ((code)); then
    if grep -qiE 'notfound|not found' <<<"$conditions"; then echo none; else echo unknown; fi
  else
    case "$conditions" in
      *Completed=*) echo finished ;;
      *Failed=FailJobSet*) echo "failed $(final_code)" ;;
      *Failed=*) echo lost ;; # all restarts are used up
      *) echo running ;;
    esac
  fi
}

# The exit code for which the JobSet failed: the first final one of a pod; 1 if no pod is left.
final_code() {
  local codes
  codes="$("${KUBECTL[@]}" get pods "--selector=jobset.sigs.k8s.io/jobset-name=$GPST_NAME" \
    '--output=jsonpath={range .items[*]}{.status.containerStatuses[0].state.terminated.exitCode}{"\n"}{end}')" || true
  { grep -xE '[1-5]|12[67]' <<<"$codes" || echo 1; } | head -n 1
}

backend_status() {
  run "${KUBECTL[@]}" get jobset "$GPST_NAME" --output=wide
  run "${KUBECTL[@]}" get pods "--selector=jobset.sigs.k8s.io/jobset-name=$GPST_NAME" --output=wide
  local first
  first="$(backend_hosts | sed -n 1p)"
  if [[ -n "$first" ]]; then
    with_retries backend_on "$first" 0 "$RUN_PYTHON" -m experiments.status "--workdir=$GPST_WORKDIR"
  fi
}

backend_logs() { # NUMBER LINES FOLLOW
  local host
  host="$(backend_hosts | sed -n "$(($1 + 1))p")"
  [[ -n "$host" ]] || die "--host=$1: $GPST_NAME has fewer pods"
  run "${KUBECTL[@]}" logs "$host" "--tail=$2" "--follow=$3"
}

backend_stop() {
  confirm "this deletes the JobSet $GPST_NAME; its checkpoints and its nodes remain"
  run "${KUBECTL[@]}" delete jobset "$GPST_NAME" --ignore-not-found
}

backend_delete() {
  run "${KUBECTL[@]}" delete jobset "$GPST_NAME" --ignore-not-found || true
  run "${KUBECTL[@]}" delete secret "$GPST_NAME-environment" --ignore-not-found || true
  local pool
  for pool in "${POOLS[@]}"; do
    run gcloud container node-pools delete "$pool" "${CLUSTER[@]}" --quiet || true
  done
}
