#!/usr/bin/env bash
# Called on a host by the other scripts, in the directory of the code; not meant to be called by hand.
#
#   on_host.sh setup ACCELERATOR BUCKET MOUNT   installs .venv from the lock, mounts the bucket
#   on_host.sh start NAME TRIES WAIT COMMAND... starts a command under supervise.sh; standard input
#                                               has lines NAME=VALUE for its environment
#   on_host.sh state NAME                       prints none, running, lost, stopped or "exited CODE"
#   on_host.sh log NAME LINES FOLLOW
#   on_host.sh stop NAME                        SIGTERM, so that it saves; SIGKILL after 5 minutes
#
# ~/gpst_runs/NAME has the log of this host, the process id and, at the end, the exit code.
set -euo pipefail
SCRIPTS="$(cd "${BASH_SOURCE[0]%/*}" && pwd)"
GRACE_SECONDS=300

running() { # whether the supervisor is alive
  local pid
  pid="$(cat "$DIR/pid" 2>/dev/null)" || return 1
  # After a reboot the process id may belong to another program.
  { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -q supervise.sh
}

state() {
  if running; then
    echo running
  elif [[ -f "$DIR/stopped" && -f "$DIR/exit_code" && "$(<"$DIR/exit_code")" == 75 ]]; then
    echo stopped
  elif [[ -f "$DIR/exit_code" ]]; then
    echo "exited $(<"$DIR/exit_code")"
  elif [[ -f "$DIR/pid" ]]; then
    echo lost
  else
    echo none
  fi
}

stop() {
  local pid second
  pid="$(cat "$DIR/pid" 2>/dev/null)" || return 0
  if running; then
    kill -TERM "$pid" # the supervisor forwards it; a second signal would interrupt the save
  else
    kill -TERM -- "-$pid" 2>/dev/null || return 0 # processes left by a dead supervisor
  fi
  for ((second = 0; second < 10 * GRACE_SECONDS; second++)); do
    if ! kill -0 -- "-$pid" 2>/dev/null; then return 0; fi
    sleep 0.1
  done
  echo "still running after $GRACE_SECONDS s: killed" >&2
  kill -KILL -- "-$pid" 2>/dev/null || true
}

start() { # TRIES WAIT COMMAND...
  local line
  if running; then
    echo "error: the run is active on this host: stop it first" >&2
    exit 2
  fi
  if [[ ! -x .venv/bin/python ]]; then
    echo "error: this host has no environment: tpu_scripts/setup.sh makes it" >&2
    exit 2
  fi
  while IFS= read -r line; do export "${line?}"; done
  stop # processes left by a dead supervisor
  mkdir -p "$DIR"
  rm -f "$DIR/exit_code" "$DIR/stopped"
  # A new session: it outlives this connection, and can be killed as a group.
  setsid nohup "$SCRIPTS/supervise.sh" "--max_tries=$1" "--wait=$2" "--exit_code=$DIR/exit_code" \
    -- "${@:3}" >>"$DIR/log" 2>&1 </dev/null &
  echo $! >"$DIR/pid"
  echo "started; log in $DIR/log"
}

verb="$1"
shift
case "$verb" in
  setup) exec "$SCRIPTS/install.sh" "$@" ;;
  start | state | log | stop)
    DIR="$HOME/gpst_runs/$1"
    shift
    ;;
  *)
    echo "error: unknown verb '$verb'" >&2
    exit 2
    ;;
esac
case "$verb" in
  log)
    options=("--lines=$1")
    if [[ "$2" == true ]]; then options+=(--follow=name --retry); fi
    exec tail "${options[@]}" "$DIR/log"
    ;;
  stop)
    if [[ -d "$DIR" ]]; then touch "$DIR/stopped"; fi
    stop
    ;;
  *) "$verb" "$@" ;;
esac
