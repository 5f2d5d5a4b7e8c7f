#!/usr/bin/env bash
# Copies the code of this checkout to every host; with gke builds and pushes the container image.
#
#   tpu_scripts/sync.sh --env=FILE [--dry_run]
set -euo pipefail
# shellcheck source=tpu_scripts/env.sh
source "${BASH_SOURCE[0]%/*}/env.sh"
begin '' "$@"
backend_sync
