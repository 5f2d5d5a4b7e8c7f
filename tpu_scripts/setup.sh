#!/usr/bin/env bash
# Makes the environment on every host from the lock, and mounts the bucket; with gke prepares the
# cluster. Does nothing where all is there. Comes after sync.sh.
#
#   tpu_scripts/setup.sh --env=FILE [--dry_run]
set -euo pipefail
# shellcheck source=tpu_scripts/env.sh
source "${BASH_SOURCE[0]%/*}/env.sh"
begin '' "$@"
backend_setup
