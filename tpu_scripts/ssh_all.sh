#!/usr/bin/env bash
# Runs a command on every host, in the directory of the code; each line of output names its host.
#
#   tpu_scripts/ssh_all.sh --env=FILE -- COMMAND [ARGUMENT...]
set -euo pipefail
# shellcheck source=tpu_scripts/env.sh
source "${BASH_SOURCE[0]%/*}/env.sh"
begin '' "$@"
((${#REST[@]})) || die "name a command behind --"
GPST_SSH_TRIES=1 # nobody says that it may be repeated
for_all_hosts backend_on "${REST[@]}"
