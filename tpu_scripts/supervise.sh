#!/usr/bin/env bash
# Restarts a training command after failures, until it ends for good.
#
#   tpu_scripts/supervise.sh [--max_tries=20] [--wait=30] [--exit_code=FILE] -- COMMAND [ARGUMENT...]
#
# Exit codes are those of all programs (docs/reliability.md): 0 to 5 are final, as are 126 and 127 of the
# shell (no such command). After any other, such as 69 (not ready), 70, 74, 75 or the death by a signal,
# the command is restarted, --wait seconds later, at most --max_tries starts in all. SIGTERM and SIGINT are forwarded, and the supervisor ends with the command:
# the host is shutting down. Exit code: that of the last try, also written to the file --exit_code.
set -euo pipefail
LAST_FINAL=5 # of data_pipeline/runtime/exit_codes.py

max_tries=20
wait_seconds=30
exit_code_file=''
while (($#)); do
  case "$1" in
    --max_tries=*) max_tries="${1#*=}" ;;
    --wait=*) wait_seconds="${1#*=}" ;;
    --exit_code=*) exit_code_file="${1#*=}" ;;
    --)
      shift
      break
      ;;
    *)
      echo "error: unknown argument '$1': give --max_tries, --wait, --exit_code, then -- and the command" >&2
      exit 2
      ;;
  esac
  shift
done
if (($# == 0)) || ! [[ "$max_tries" =~ ^[1-9][0-9]*$ && "$wait_seconds" =~ ^[0-9]+$ ]]; then
  echo "error: usage: ${0##*/} [--max_tries=N] [--wait=SECONDS] [--exit_code=FILE] -- COMMAND [ARGUMENT...]" >&2
  exit 2
fi

if [[ -n "$exit_code_file" ]]; then trap 'echo $? >"$exit_code_file"' EXIT; fi

child=''
leaving=''
passed_on=''
pass_on() {
  leaving="$1"
  if [[ -n "$child" ]]; then
    passed_on="$child"
    kill -s "$1" "$child" 2>/dev/null || true
  fi
}
trap 'pass_on TERM' TERM
trap 'pass_on INT' INT

for ((try = 1; ; try++)); do
  "$@" &
  child=$!
  # A signal that arrived while the command was being started has not been forwarded yet.
  if [[ -n "$leaving" && -z "$passed_on" ]]; then pass_on "$leaving"; fi
  code=0
  wait "$child" || code=$?
  # A signal interrupts `wait` before the command has ended: it is saving.
  while kill -0 "$child" 2>/dev/null; do
    code=0
    wait "$child" || code=$?
  done
  child=''
  if [[ -n "$leaving" ]] || ((code <= LAST_FINAL || code == 126 || code == 127)); then exit "$code"; fi
  if ((try >= max_tries)); then
    echo "error: exit code $code at try $try of $max_tries: giving up" >&2
    exit "$code"
  fi
  echo "exit code $code at try $try of $max_tries: starting again in $wait_seconds s" >&2
  sleep "$wait_seconds" &
  wait $! || true
  if [[ -n "$leaving" ]]; then exit "$code"; fi
done
