#!/usr/bin/env bash
# Deletes the slices of a run, after its name has been typed (or with --yes). Data, checkpoints and
# the bucket are never deleted.
#
#   tpu_scripts/delete.sh --env=FILE [--yes]
set -euo pipefail
# shellcheck source=tpu_scripts/env.sh
source "${BASH_SOURCE[0]%/*}/env.sh"
begin '' "$@"
confirm "this deletes the resources named $GPST_NAME in $GPST_BACKEND: $GPST_NUM_SLICES x $GPST_TOPOLOGY"
backend_delete
