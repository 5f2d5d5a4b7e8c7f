#!/usr/bin/env bash
# Shows slices, hosts, and the run's step, loss, MFU, goodput, last checkpoint and restarts.
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
