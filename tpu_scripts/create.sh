#!/usr/bin/env bash
# Creates the slices of a run; resources that exist are left unchanged.
#
#   tpu_scripts/create.sh --env=FILE [--dry_run]
set -euo pipefail
# shellcheck source=tpu_scripts/env.sh
source "${BASH_SOURCE[0]%/*}/env.sh"
begin '' "$@"
backend_create
