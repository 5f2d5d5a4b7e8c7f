#!/usr/bin/env bash
# A rehearsal on this machine: up.sh launches a tiny run on "hosts" that are local processes, through
# fakes of gcloud, kubectl and docker that inject faults; further faults hit it during the run. The
# final parameters must be bitwise equal to those of an undisturbed run.
#
#   tpu_scripts/rehearse.sh [--full] [--backend=queued] [--hosts=2] [--steps=32] [--seed=0] [--keep=DIR]
#
# The short form injects 5 faults into calls (create fails, quota, no answer, copy, ssh), kills one
# process and preempts all slices. --full injects more faults during the run, host losses included,
# and covers queued, mig, gke and slurm. --keep stores calls, logs and checkpoints in DIR. Exit code 1:
# the run did not finish, or with other parameters.
#
# --backend=slurm fakes nothing: a private slurmctld, a slurmd for each host and one to spare, on the
# loopback interface, from installed packages (Debian: slurm-wlm and munge), as root or any user. One
# process is killed, then slurmd and all processes of the node with the batch script; with --full of
# another node, too, and the nodes have GPUs by name. Without the packages it is skipped.
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
if $full; then : "${backends:=queued mig gke slurm}"; else : "${backends:=queued}"; fi
for backend in $backends; do
  [[ "$backend" =~ ^(queued|mig|gke|slurm)$ ]] || {
    echo "error: --backend=$backend: choose queued, mig, gke or slurm" >&2
    exit 2
  }
done

python="${PYTHON:-$ROOT/.venv/bin/python}"
[[ -x "$python" ]] || python="$(command -v python3)"
slurm_cluster() { "$python" "$SCRIPTS/rehearsal/slurm_cluster.py" "$@"; }

if [[ " $backends " == *" slurm "* ]]; then
  missing="$(slurm_cluster missing)"
  if [[ -n "$missing" ]]; then
    echo "skipped: slurm: not installed: $missing (Debian: the packages slurm-wlm and munge)"
    backends="${backends//slurm/}"
    if [[ -z "${backends// /}" ]]; then exit 0; fi
  fi
fi
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

cluster='' launch=''
stop_slurm() {
  if [[ -z "$cluster" ]]; then return; fi
  slurm_cluster stop "$cluster"
  if [[ -n "$keep" ]]; then (cd "$cluster" && cp --parents ./*.log ./*.out slurm.conf nodes/*/*.log "$stage"); fi
  rm -rf "$cluster"
  cluster=''
}

# Kills all processes of the hosts, whose environment contains the stage.
# shellcheck disable=SC2329 # called by the trap
clear_stage() {
  local entry
  if [[ -n "$launch" ]]; then kill -KILL "$launch" 2>/dev/null || true; fi
  stop_slurm || true
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

# Launches as a user does, with a settings file and up.sh: rehearse BACKEND WORLD PLAYED FAULT...
rehearse() {
  local backend="$1" world="$2" played="$3" code=0 settings chaos=''
  local -a inside=(env "GPST_WORLD=$world" "GPST_FAKE_PYTHON=$python" "PATH=$SCRIPTS/rehearsal/bin:$PATH")
  shift 3
  case "$backend" in # four chips a host
    queued) settings="GPST_TOPOLOGY=v4:2x2x$hosts" ;;
    slurm)
      local kind=cpu # the private nodes say that they have a GPU each
      if $full; then kind=gpu; fi
      settings="source '$SCRIPTS/examples/slurm_$kind.env'
GPST_TOPOLOGY=$kind:${hosts}x1 GPST_CPUS=1 GPST_PARTITION=rehearsal GPST_CODE='$world/the code'"
      inside=(slurm_cluster run "$cluster" "$stage" "$python")
      mkdir "$world"
      ;;
    *) settings="GPST_TOPOLOGY=v5p:2x2x$hosts" ;;
  esac
  if [[ "$backend" != slurm ]]; then
    "$python" "$SCRIPTS/rehearsal/world.py" "$world" "$python" "$backend" "$played"
  fi
  cat >"$world/run.env" <<SETTINGS
$settings
GPST_NAME=rehearsal GPST_BACKEND=$backend GPST_SPOT=true
GPST_PROJECT=nowhere GPST_ZONE=no-where-a GPST_CLUSTER=none GPST_IMAGE=none/gpst:1
GPST_CONFIG='$stage/run/run.py' GPST_WORKDIR='$world/the run' GPST_DATA='$stage/run/tokens'
GPST_WAIT=1 GPST_POLL=1 GPST_MAX_TRIES=20
SETTINGS
  if (($#)) && [[ "$backend" == slurm ]]; then
    slurm_cluster faults "$cluster" "$world/the run/metrics.jsonl" "$world/faults.log" "$steps" "$seed" "$@" &
    chaos=$!
  elif (($#)); then
    local resource=rehearsal
    case "$backend" in mig) resource=rehearsal-0 ;; gke) resource=jobsets/rehearsal ;; esac
    "$python" "$SCRIPTS/rehearsal/chaos.py" "$world" "$world/the run/metrics.jsonl" "$resource" \
      "$steps" "$seed" "$@" &
    chaos=$!
  fi
  "${inside[@]}" "$SCRIPTS/up.sh" "--env=$world/run.env" --yes -- --heartbeat_seconds=10 --connect_seconds=120 \
    >"$world/up.log" 2>&1 &
  launch=$!
  wait "$launch" || code=$? # in the background, so that a signal ends this script at once
  launch=''
  if ((code)); then
    tail -n 60 "$world/up.log" >&2
    tail -n 40 "$world"/hosts/*/gpst_runs/rehearsal/log "$world/the code"/runs/slurm/rehearsal/*.log \
      "$world"/*.log "${cluster:-$world}"/*.log >&2 || true
    echo "error: $backend: up.sh ended with exit code $code" >&2
    if [[ -n "$chaos" ]]; then kill "$chaos" 2>/dev/null || true; fi
    exit 1
  fi
  if [[ -n "$chaos" ]]; then wait "$chaos"; fi
}

# Digest of the newest checkpoint of each workdir; its checksums are verified as well.
params_sha256() {
  JAX_PLATFORMS=cpu "$python" -c 'import sys; from experiments.inspect_checkpoint import inspect
for workdir in sys.argv[1:]: print(inspect(workdir)["params_sha256"])' "$@"
}

mid_run=(process preempt)
if $full; then mid_run=(process host preempt process preempt host); fi
failed=0
for backend in $backends; do
  seconds=$SECONDS
  if [[ "$backend" == slurm ]]; then
    cluster="$(mktemp -d /tmp/gpst-slurm-XXXXXX)" # paths of sockets are short
    slurm_cluster start "$cluster" "$((hosts + 1))" || {
      tail -n 20 "$cluster"/*.log "$cluster"/*.out >&2
      exit 1
    }
  fi
  whole="$stage/$backend-whole" disturbed="$stage/$backend-disturbed"
  rehearse "$backend" "$whole" none # fills the compilation cache for the other one
  events=("${mid_run[@]}")
  case "$backend" in
    gke) events=("${mid_run[@]/preempt/host}") ;; # node pools replace their nodes themselves
    slurm)
      events=(process batch_node)
      if $full; then events+=(node); fi
      ;;
  esac
  rehearse "$backend" "$disturbed" all "${events[@]}"
  stop_slurm
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
