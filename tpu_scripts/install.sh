#!/usr/bin/env bash
# Creates .venv in the current directory from the lock files, for training: without torch or a compiler.
#
#   tpu_scripts/install.sh cpu|cuda|tpu [BUCKET MOUNT]
#
# Uses Python 3.11 or 3.12 if installed, otherwise downloads 3.12 with uv. Does nothing when up to
# date. With a bucket: mounts it with gcsfuse, which is installed if missing (Debian, Ubuntu).
set -euo pipefail

accelerator="${1:-}" bucket="${2:-}" mount="${3:-}"
case "$accelerator" in cpu | cuda | tpu) ;; *)
  echo "error: accelerator '$accelerator': choose cpu, cuda or tpu" >&2
  exit 2
  ;;
esac

find_python() {
  local candidate
  for candidate in .venv/bin/python python3.11 python3.12 python3; do
    if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' \
      2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  python3 -m pip install --quiet --user uv==0.9.7
  python3 -m uv python install --quiet 3.12
  python3 -m uv python find 3.12
}

install() {
  local python tag stamp
  local -a locks pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps)
  python="$(find_python)"
  tag="$("$python" -c 'import sys; print("py%d%d" % sys.version_info[:2])')"
  locks=(-r "requirements/$tag.txt")
  if [[ "$accelerator" != cpu ]]; then locks+=(-r "docker/$tag-$accelerator.txt"); fi
  stamp=".venv/installed-$(cat "${locks[@]//-r/\/dev\/null}" | sha256sum | cut -c 1-16)-$accelerator"
  if [[ -f "$stamp" ]]; then
    echo "up to date: $stamp"
    return
  fi
  if [[ ! -x .venv/bin/python ]]; then "$python" -m venv .venv; fi
  "${pip[@]}" --require-hashes "${locks[@]}"
  "${pip[@]}" --no-build-isolation -e .
  touch "$stamp"
  echo "installed: $stamp"
}

mount_bucket() {
  if mountpoint -q "$mount"; then return; fi
  if ! command -v gcsfuse >/dev/null; then
    local key=/usr/share/keyrings/cloud.google.asc release
    # shellcheck disable=SC1091 # a file of the host
    release="$(. /etc/os-release && echo "$VERSION_CODENAME")"
    curl --silent --show-error --fail https://packages.cloud.google.com/apt/doc/apt-key.gpg |
      sudo tee "$key" >/dev/null
    echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$release main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    sudo apt-get update --quiet
    sudo apt-get install --quiet --yes gcsfuse
  fi
  sudo mkdir -p "$mount"
  sudo chown "$(id -u):$(id -g)" "$mount"
  gcsfuse --implicit-dirs "$bucket" "$mount"
}

install
if [[ -n "$bucket" ]]; then mount_bucket; fi
