# shellcheck shell=bash
# Hosts accessed by ssh: shared by queued.sh and mig.sh. They define `backend_hosts`;
# `to_shell HOST TEXT` and `to_copy FILE HOST PATH`, which set COMMAND to the words of a command;
# and `host_environment HOST NUMBER`, which sets ENVIRONMENT to NAME=VALUE words.

RUN_PYTHON=.venv/bin/python

# Runs a command on a host, in the directory of the code.
backend_on() { # HOST NUMBER WORD...
  local host="$1"
  shift 2
  to_shell "$host" "cd $(quote "$GPST_CODE") && $(quote "$@")"
  run "${COMMAND[@]}"
}

backend_sync() { pack_code && for_all_hosts sync_host; }

sync_host() { # HOST NUMBER
  local code
  code="$(quote "$GPST_CODE")"
  to_copy "$PACKED" "$1" .gpst_code.tar.gz
  run "${COMMAND[@]}" || return
  to_shell "$1" "mkdir -p $code && tar -xzf .gpst_code.tar.gz -C $code"
  run "${COMMAND[@]}"
}

backend_setup() {
  for_all_hosts backend_on tpu_scripts/on_host.sh setup tpu "$GPST_BUCKET" "$GPST_MOUNT"
}

backend_launch() {
  train_command "$RUN_PYTHON"
  for_all_hosts launch_host
}

launch_host() { # HOST NUMBER
  ENVIRONMENT=()
  host_environment "$@"
  to_shell "$1" "cd $(quote "$GPST_CODE") && $(quote tpu_scripts/on_host.sh start "$GPST_NAME" \
    "$GPST_MAX_TRIES" "$GPST_WAIT" env "${ENVIRONMENT[@]}" "${TRAIN[@]}")"
  run_with secret_lines "${COMMAND[@]}"
}

# none, running, finished, stopped (by stop.sh), "failed CODE" (one that is final), lost (a
# host no longer runs it) or unknown (a host does not answer).
backend_run_state() {
  local states
  states="$(for_all_hosts host_state)" || {
    echo unknown
    return
  }
  if $GPST_DRY_RUN; then
    echo none
  elif grep -qE 'exited ([1-5]|12[67])$' <<<"$states"; then
    echo "failed $(sed -nE 's/.*exited ([1-5]|12[67])$/\1/p' <<<"$states" | head -n 1)"
  elif ! grep -qvE 'exited 0$' <<<"$states"; then
    echo finished
  elif ! grep -qvE 'none$' <<<"$states"; then
    echo none
  elif ! grep -qvE '(running|exited 0)$' <<<"$states"; then
    echo running
  elif ! grep -qvE '(stopped|exited 0)$' <<<"$states"; then
    echo stopped
  else
    echo lost
  fi
}

host_state() { # HOST NUMBER
  local code
  code="$(quote "$GPST_CODE")"
  to_shell "$1" "if [ -d $code ]; then cd $code && $(quote tpu_scripts/on_host.sh state "$GPST_NAME"); else echo none; fi"
  ask '' "${COMMAND[@]}"
}

backend_status() {
  local states
  states="$(for_all_hosts host_state)" || true
  if ! $GPST_DRY_RUN; then
    say "$states"
    if ! grep -qvE ' none$' <<<"$states"; then return 0; fi # not launched, or not set up
  fi
  on_first_host "$RUN_PYTHON" -m experiments.status "--workdir=$GPST_WORKDIR"
}

on_first_host() {
  local first
  first="$(backend_hosts | sed -n 1p)"
  if [[ -n "$first" ]]; then with_retries backend_on "$first" 0 "$@"; fi
}

backend_logs() { # NUMBER LINES FOLLOW
  local host
  host="$(backend_hosts | sed -n "$(($1 + 1))p")"
  [[ -n "$host" ]] || die "--host=$1: $GPST_NAME has fewer hosts"
  backend_on "$host" "$1" tpu_scripts/on_host.sh log "$GPST_NAME" "$2" "$3"
}

backend_stop() { for_all_hosts backend_on tpu_scripts/on_host.sh stop "$GPST_NAME"; }
