#!/usr/bin/env bash
# Ends the run with a checkpoint; its slices stay. launch.sh continues it.
#
#   tpu_scripts/stop.sh --env=FILE [--yes]
set -euo pipefail
# shellcheck source=tpu_scripts/env.sh
source "${BASH_SOURCE[0]%/*}/env.sh"
begin '' "$@"
backend_stop
