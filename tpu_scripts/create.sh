#!/usr/bin/env bash
# Makes the slices of a run; parts that are there already stay as they are.
#
#   tpu_scripts/create.sh --env=FILE [--dry_run]
set -euo pipefail
# shellcheck source=tpu_scripts/env.sh
source "${BASH_SOURCE[0]%/*}/env.sh"
begin '' "$@"
backend_create
