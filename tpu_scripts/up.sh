#!/usr/bin/env bash
# Everything for a run: create, sync, setup, launch, then monitor. Recreates lost slices and
# relaunches, at most --max_tries times; the run resumes from its newest checkpoint.
#
#   tpu_scripts/up.sh --env=FILE [--yes] [--config.section.field=value ...] [-- FLAGS OF PRETRAIN]
#
# It may be stopped and called again at any time: the run continues without it. Exit codes are those
# of the run (docs/reliability.md): 0 finished; 1 to 5 it failed; 69 too many tries; 75 ended by stop.sh.
# The slices remain until delete.sh.
set -euo pipefail
# shellcheck source=tpu_scripts/env.sh
source "${BASH_SOURCE[0]%/*}/env.sh"
begin '' "$@"
train_command "$RUN_PYTHON" # fails before anything is created
confirm "up deletes and recreates slices of $GPST_NAME that were preempted or have failed"
GPST_YES=true

if $GPST_DRY_RUN; then
  for part in create state sync setup launch run_state status; do
    echo "# $part"
    "backend_$part" >/dev/null
  done
  exit 0
fi

SILENT_POLLS=10 # polls without an answer, after which slices count as lost
tries=0
try_again() { # REASON: counts a try and waits; exits after the last try
  tries=$((tries + 1))
  if ((tries >= GPST_MAX_TRIES)); then
    note "error: $1, at try $tries of $GPST_MAX_TRIES: giving up; tpu_scripts/logs.sh shows why"
    exit 69
  fi
  note "$1 (try $tries of $GPST_MAX_TRIES): retrying in $GPST_WAIT s"
  sleep "$GPST_WAIT"
}

create_slices() {
  local message code=0
  message="$(mktemp)"
  backend_create 2>"$message" || code=$?
  cat "$message" >&2
  if ((code)); then
    # Permanent errors; a lack of quota or capacity may be temporary.
    if grep -qE 'PERMISSION_DENIED|INVALID_ARGUMENT|unrecognized arguments|Invalid value' "$message"; then
      die "the slices cannot be created; see the lines above"
    fi
    try_again 'the slices could not be created'
  fi
  rm -f "$message"
}

start_run() { backend_sync && backend_setup && backend_launch; }

shown='' silent=0
while true; do
  state="$(backend_state)"
  if [[ "$state" == ready ]]; then run_state="$(backend_run_state)"; else run_state=none; fi
  if [[ "$shown" != "$state, $run_state" ]]; then
    shown="$state, $run_state"
    note "$(date '+%H:%M:%S') $GPST_NAME: slices $state, run $run_state"
  fi
  if [[ "$state/$run_state" == *unknown* ]]; then silent=$((silent + 1)); else silent=0; fi
  if ((silent >= SILENT_POLLS)); then state=broken; fi
  case "$state/$run_state" in
    missing/*) create_slices ;;
    broken/*)
      backend_delete || true
      try_again 'the slices are lost'
      ;;
    ready/finished)
      backend_status || true
      exit 0
      ;;
    ready/failed*)
      backend_logs 0 20 false || true
      note "error: the run ended with exit code ${run_state#failed }; its log is above"
      exit "${run_state#failed }"
      ;;
    ready/none) start_run || try_again 'the run could not be started' ;;
    ready/lost)
      backend_stop || true
      try_again 'the run is lost on a host'
      start_run || note 'the run could not be started'
      ;;
    ready/stopped) exit 75 ;;
    *) sleep "$GPST_POLL" ;; # waiting, running, or no answer
  esac
done
