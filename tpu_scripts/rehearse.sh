#!/usr/bin/env bash
# A dress rehearsal on this machine: up.sh launches a tiny run on "hosts" that are processes here,
# through fakes of gcloud, kubectl and docker that play faults, and other faults hit it in mid-run.
# The parameters in the end must equal, bit for bit, those of a run that nothing disturbed.
#
#   tpu_scripts/rehearse.sh [--full] [--backend=queued] [--hosts=2] [--steps=32] [--seed=0] [--keep=DIR]
#
# The small form plays 5 faults of calls (create fails, quota, no answer, copy, ssh), kills one
# process and takes all slices away. --full plays twice as many in mid-run, loses a host, and goes
# through queued, mig and gke. --keep leaves calls, logs and checkpoints in DIR. Exit code 1: the
# run did not end, or not with the same parameters.
set -euo pipefail
SCRIPTS="$(cd "${BASH_SOURCE[0]%/*}" && pwd)"
ROOT="${SCRIPTS%/*}"

full=false backends='' hosts=2 steps=32 seed=0 keep=''
for word in "$@"; do
  case "$word" in
    --full) full=true ;;
    --backend=*) backends="${word#*=}" ;;
    --hosts=*) hosts="${word#*=}" ;;
    --steps=*) steps="${word#*=}" ;;
    --seed=*) seed="${word#*=}" ;;
    --keep=*) keep="${word#*=}" ;;
    --help)
      sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$0"
      exit 0
      ;;
    *)
      echo "error: unknown argument '$word': see --help" >&2
      exit 2
      ;;
  esac
done
if $full; then : "${backends:=queued mig gke}"; else : "${backends:=queued}"; fi
for backend in $backends; do
  [[ "$backend" =~ ^(queued|mig|gke)$ ]] || {
    echo "error: --backend=$backend: choose queued, mig or gke" >&2
    exit 2
  }
done

python="${PYTHON:-$ROOT/.venv/bin/python}"
[[ -x "$python" ]] || python="$(command -v python3)"
if [[ -n "$keep" ]]; then
  mkdir -p "$keep"
  if [[ -n "$(ls -A "$keep")" ]]; then
    echo "error: --keep=$keep: not empty, name another directory" >&2
    exit 2
  fi
  stage="$(cd "$keep" && pwd)"
else
  stage="$(mktemp -d)"
fi

# Whatever happens, nothing goes on running; the hosts' processes carry the stage in their
# environment, those of the controller on their command line.
# shellcheck disable=SC2329 # by the trap
clear_stage() {
  local entry
  for entry in /proc/[0-9]*; do
    if grep -qsF "GPST_REHEARSED_HOST=$stage/" "$entry/environ"; then
      kill -KILL "${entry#/proc/}" 2>/dev/null || true
    fi
  done
  if [[ -z "$keep" ]]; then rm -rf "$stage"; fi
}
trap clear_stage EXIT
trap 'exit 130' INT TERM

cd "$ROOT"
JAX_PLATFORMS=cpu "$python" -m tpu_scripts.rehearsal.make_run "$stage/run" "$steps"

# The launch of a user: settings in a file, then up.sh. rehearse BACKEND WORLD PLAYED FAULT...
rehearse() {
  local backend="$1" world="$2" played="$3" code=0 topology
  shift 3
  "$python" "$SCRIPTS/rehearsal/world.py" "$world" "$python" "$backend" "$played"
  case "$backend" in # four chips a host
    queued) topology="v4:2x2x$hosts" ;;
    *) topology="v5p:2x2x$hosts" ;;
  esac
  cat >"$world/run.env" <<SETTINGS
GPST_NAME=rehearsal GPST_BACKEND=$backend GPST_TOPOLOGY=$topology GPST_SPOT=true
GPST_PROJECT=nowhere GPST_ZONE=no-where-a GPST_CLUSTER=none GPST_IMAGE=none/gpst:1
GPST_CONFIG='$stage/run/run.py' GPST_WORKDIR='$world/the run' GPST_DATA='$stage/run/tokens'
GPST_WAIT=1 GPST_POLL=1 GPST_MAX_TRIES=20
SETTINGS
  local chaos=''
  if (($#)); then
    local resource=rehearsal
    case "$backend" in mig) resource=rehearsal-0 ;; gke) resource=jobsets/rehearsal ;; esac
    "$python" "$SCRIPTS/rehearsal/chaos.py" "$world" "$world/the run/metrics.jsonl" "$resource" \
      "$steps" "$seed" "$@" &
    chaos=$!
  fi
  GPST_WORLD="$world" GPST_FAKE_PYTHON="$python" PATH="$SCRIPTS/rehearsal/bin:$PATH" \
    "$SCRIPTS/up.sh" "--env=$world/run.env" --yes -- --heartbeat_seconds=10 --connect_seconds=120 \
    >"$world/up.log" 2>&1 || code=$?
  if ((code)); then
    tail -n 60 "$world/up.log" >&2
    tail -n 40 "$world"/hosts/*/gpst_runs/rehearsal/log "$world"/*.log >&2 || true
    echo "error: $backend: up.sh ended with exit code $code" >&2
    if [[ -n "$chaos" ]]; then kill "$chaos" 2>/dev/null || true; fi
    exit 1
  fi
  if [[ -n "$chaos" ]]; then wait "$chaos"; fi
}

# Of the newest checkpoint of each workdir, which is compared with its checksums on the way.
params_sha256() {
  JAX_PLATFORMS=cpu "$python" -c 'import sys; from experiments.inspect_checkpoint import inspect
for workdir in sys.argv[1:]: print(inspect(workdir)["params_sha256"])' "$@"
}

mid_run=(process preempt)
if $full; then mid_run=(process host preempt process preempt host); fi
failed=0
for backend in $backends; do
  seconds=$SECONDS
  whole="$stage/$backend-whole" disturbed="$stage/$backend-disturbed"
  rehearse "$backend" "$whole" none # the other one finds its programs compiled
  events=("${mid_run[@]}")
  if [[ "$backend" == gke ]]; then # whose pools replace their nodes themselves
    events=("${mid_run[@]/preempt/host}")
  fi
  rehearse "$backend" "$disturbed" all "${events[@]}"
  mapfile -t sha256 < <(params_sha256 "$whole/the run" "$disturbed/the run")
  echo "== $backend: $(wc -l <"$disturbed/faults.log") faults in $((SECONDS - seconds)) s"
  cat "$disturbed/faults.log"
  sed -n '/^\(\[[^]]*\] \)\{0,1\}\(progress\|last checkpoint\|restarts\)/p' "$disturbed/up.log"
  echo "undisturbed  ${sha256[0]:-none}"
  echo "disturbed    ${sha256[1]:-none}"
  if ((${#sha256[@]} == 2)) && [[ "${sha256[0]}" == "${sha256[1]}" ]]; then
    echo "the parameters are the same, bit for bit"
  else
    echo "error: $backend: the parameters differ" >&2
    failed=1
  fi
done
exit "$failed"
