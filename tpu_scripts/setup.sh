#!/usr/bin/env bash
# Installs the environment on every host from the lock file, and mounts the bucket; with gke installs
# the JobSet controller. Does nothing where everything is up to date. Run it after sync.sh.
#
#   tpu_scripts/setup.sh --env=FILE [--dry_run]
set -euo pipefail
# shellcheck source=tpu_scripts/env.sh
source "${BASH_SOURCE[0]%/*}/env.sh"
begin '' "$@"
backend_setup
