#!/usr/bin/env bash
# Shows the log of one host.
#
#   tpu_scripts/logs.sh --env=FILE [--host=0] [--lines=100] [--follow]
set -euo pipefail
# shellcheck source=tpu_scripts/env.sh
source "${BASH_SOURCE[0]%/*}/env.sh"
begin 'host lines follow' "$@"
[[ "${host:=0}" =~ ^[0-9]+$ && "${lines:=100}" =~ ^[0-9]+$ ]] || die "--host and --lines are whole numbers"
backend_logs "$host" "$lines" "${follow:-false}"
