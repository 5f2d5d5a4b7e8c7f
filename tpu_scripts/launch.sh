#!/usr/bin/env bash
# Starts the training command on all hosts, supervised: it is restarted after failures.
#
#   tpu_scripts/launch.sh --env=FILE [--config.section.field=value ...] [-- FLAGS OF PRETRAIN]
#
# The same command resumes a run from its newest checkpoint.
set -euo pipefail
# shellcheck source=tpu_scripts/env.sh
source "${BASH_SOURCE[0]%/*}/env.sh"
begin '' "$@"
backend_launch
