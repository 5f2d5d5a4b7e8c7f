#!/usr/bin/env bash
# Runs a command on every host, in the directory of the code; output lines are prefixed with the host.
#
#   tpu_scripts/ssh_all.sh --env=FILE -- COMMAND [ARGUMENT...]
set -euo pipefail
# shellcheck source=tpu_scripts/env.sh
source "${BASH_SOURCE[0]%/*}/env.sh"
begin '' "$@"
((${#REST[@]})) || die "give a command after --"
GPST_SSH_TRIES=1 # the command may not be safe to repeat
for_all_hosts backend_on "${REST[@]}"
