#!/usr/bin/env bash
# Deletes the slices of a run, after its name was typed (or with --yes). Its data, its checkpoints
# and its bucket are never touched.
#
#   tpu_scripts/delete.sh --env=FILE [--yes]
set -euo pipefail
# shellcheck source=tpu_scripts/env.sh
source "${BASH_SOURCE[0]%/*}/env.sh"
begin '' "$@"
confirm "this deletes what carries the name $GPST_NAME in $GPST_BACKEND: $GPST_NUM_SLICES x $GPST_TOPOLOGY"
backend_delete
