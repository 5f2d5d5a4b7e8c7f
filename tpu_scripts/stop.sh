#!/usr/bin/env bash
# Saves a checkpoint and ends the run; its slices remain. launch.sh resumes it.
#
#   tpu_scripts/stop.sh --env=FILE [--yes]
set -euo pipefail
# shellcheck source=tpu_scripts/env.sh
source "${BASH_SOURCE[0]%/*}/env.sh"
begin '' "$@"
backend_stop
