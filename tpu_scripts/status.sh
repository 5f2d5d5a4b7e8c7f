#!/usr/bin/env bash
# Shows slices and hosts, and of the run: step, loss, MFU, goodput, last checkpoint, restarts.
#
#   tpu_scripts/status.sh --env=FILE
set -euo pipefail
# shellcheck source=tpu_scripts/env.sh
source "${BASH_SOURCE[0]%/*}/env.sh"
begin '' "$@"
need workdir
slices="$(backend_state)"
$GPST_DRY_RUN || echo "$GPST_NAME: $GPST_NUM_SLICES x $GPST_TOPOLOGY, slices $slices"
if $GPST_DRY_RUN || [[ "$slices" == ready ]]; then backend_status; fi
