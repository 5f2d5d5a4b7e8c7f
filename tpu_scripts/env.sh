# shellcheck shell=bash
# Settings and helpers of all scripts; sourced by them, never run.
#
# A setting is an environment variable GPST_X, a line `GPST_X=value` of the file named by --env or
# $GPST_ENV (sourced by bash, so quote spaces), or a flag --x=value; later ones take precedence.
# `settings` lists them.

SCRIPTS="$(cd "${BASH_SOURCE[0]%/*}" && pwd)"
# shellcheck disable=SC2034 # used by the backends
ROOT="${SCRIPTS%/*}"

# Name, default and meaning of every setting.
settings() {
  cat <<'TABLE'
name||name of the run, used for resources, labels and logs
backend||queued (v4, v5e), mig (v5p, v6e and later), gke or slurm
topology||of one slice, as in experiments.compile, such as v5p:4x8x8; for slurm gpu:NODESxGPUS or cpu:NODESxPROCESSES
num_slices|1|slices of that topology
project||Google Cloud project
zone||zone of the slices
network||VPC network; empty: the default one
service_account||service account of the hosts; empty: the default one
reservation||name of the reservation that --reserved uses
image_family||boot image with mig; empty: that of the chip generation
cluster||existing GKE cluster
namespace|default|Kubernetes namespace
queue||Kueue LocalQueue (with xpk: multislice-queue); empty: none
image||container image with its tag
partition||SLURM partition; empty: the default one
cpus||CPUs of each process under SLURM; empty: what the cluster gives (often one)
time_limit|24:00:00|time limit of one SLURM job
code|gpst_jax|directory of the code on a host, below the home directory
bucket||Cloud Storage bucket, mounted at --mount on every host
mount|/mnt/gpst|mount point of the bucket
config||--config of experiments.pretrain
workdir||--workdir of experiments.pretrain, on storage that all hosts share
data||data.path of the run: a dataset that all hosts can read
secrets|WANDB_API_KEY HF_TOKEN|environment variables passed to the run; their values are never printed
max_tries|20|limit on starts of the run after failures, and on tries of up
wait|30|seconds before a retry
ssh_tries|3|tries of each call to a host
poll|30|seconds between two polls of up
parallel|32|hosts that are contacted at once
TABLE
}

die() { # MESSAGE: one line, exit code 2
  note "error: $*"
  exit 2
}

say() { printf '%s\n' "$(mask "$*")"; }

note() { say "$@" >&2; }

# The words, quoted for a shell.
quote() {
  local word out=''
  for word in "$@"; do
    [[ "$word" =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word="${word@Q}"
    out+="${out:+ }$word"
  done
  printf '%s' "$out"
}

# The text with the values of secrets replaced by ***.
mask() {
  local text="$1" name value
  for name in ${GPST_SECRETS:-}; do
    value="${!name:-}"
    if [[ -n "$value" ]]; then text="${text//"$value"/***}"; fi
  done
  printf '%s' "$text"
}

# Parses the settings and flags of a script: begin "ITS OWN FLAGS" "$@". Arguments after `--` go to
# REST; an own flag sets the variable of its name.
begin() {
  local own=" $1 " line name default word value
  shift
  exec 3>&1 # dry runs print here, even from inside $(...)
  local -A known=()
  while IFS='|' read -r name default _; do known[$name]="$default"; done < <(settings)
  GPST_DRY_RUN=false GPST_YES=false GPST_SPOT="${GPST_SPOT:-false}" GPST_RESERVED="${GPST_RESERVED:-false}"
  OVERRIDES=() REST=()
  local -a words=()
  while (($#)); do
    if [[ "$1" == -- ]]; then
      shift
      REST=("$@")
      break
    fi
    words+=("$1")
    shift
  done
  for word in "${words[@]}"; do
    if [[ "$word" == --help ]]; then usage; fi
    if [[ "$word" == --env=* ]]; then GPST_ENV="${word#*=}"; fi
  done
  if [[ -n "${GPST_ENV:-}" ]]; then
    [[ -f "$GPST_ENV" ]] || die "--env=$GPST_ENV: no such file"
    # shellcheck disable=SC1090 # the user's file
    source "$GPST_ENV"
  fi
  for word in "${words[@]}"; do
    name="${word#--}" name="${name%%=*}" value="${word#*=}"
    case "$word" in
      --dry_run) GPST_DRY_RUN=true ;;
      --yes) GPST_YES=true ;;
      --spot) GPST_SPOT=true ;;
      --reserved) GPST_RESERVED=true ;;
      --env=*) ;;
      --config.data.path=*) die "$word: give the dataset as --data" ;;
      --config.*=*) OVERRIDES+=("$word") ;;
      --config.*) die "$word: needs a value: $word=VALUE" ;;
      --set=*) die "$word: write --config.$value" ;;
      --*=*)
        if [[ -v "known[$name]" ]]; then
          printf -v "GPST_${name^^}" '%s' "$value"
        elif [[ "$own" == *" $name "* ]]; then
          printf -v "$name" '%s' "$value"
        else
          die "unknown flag --$name: see --help"
        fi
        ;;
      *) [[ "$word" == --* && "$own" == *" $name "* ]] || die "unknown argument '$word': see --help"
        printf -v "$name" true ;;
    esac
  done
  for name in "${!known[@]}"; do
    line="GPST_${name^^}"
    if [[ -z "${!line:-}" ]]; then printf -v "$line" '%s' "${known[$name]}"; fi
  done
  check_settings
}

usage() { # the comment at the top of the script, then the settings
  sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$0"
  echo
  echo 'Flags: --dry_run (prints the exact commands), --yes, --spot, --reserved, --env=FILE,'
  echo '--config.section.field=value (repeatable), and the settings:'
  settings | while IFS='|' read -r name default meaning; do
    echo "  --$name${default:+ [$default]}: $meaning"
  done
  exit 0
}

need() { # NAME...: settings that must not be empty
  local name variable
  for name in "$@"; do
    variable="GPST_${name^^}"
    [[ -n "${!variable:-}" ]] || die "--$name is not set: give the flag, or GPST_${name^^} in the file of --env"
  done
}

check_settings() {
  need name backend topology
  [[ "$GPST_NAME" =~ ^[a-z]([-a-z0-9]{0,26}[a-z0-9])?$ ]] ||
    die "--name=$GPST_NAME: small letters, digits and hyphens, at most 28 characters, starting with a letter"
  [[ -f "$SCRIPTS/backends/$GPST_BACKEND.sh" && "$GPST_BACKEND" != vm ]] ||
    die "--backend=$GPST_BACKEND: choose queued, mig, gke or slurm"
  local name
  for name in NUM_SLICES MAX_TRIES SSH_TRIES PARALLEL; do
    local variable="GPST_$name"
    [[ "${!variable}" =~ ^[1-9][0-9]*$ ]] || die "--${name,,}=${!variable}: a whole number above 0"
  done
  for name in CONFIG WORKDIR DATA CODE MOUNT; do
    variable="GPST_$name"
    [[ "${!variable}" != [a-zA-Z]*:/* ]] || die "--${name,,}=${!variable}: buckets are not accessed directly:" \
      "mount it (--bucket=NAME --mount=DIRECTORY) and give the path below the mount point"
  done
  [[ "$GPST_BUCKET" != *[:/]* ]] || die "--bucket=$GPST_BUCKET: give the bucket's name alone, without gs:// or folders"
  [[ "$GPST_SPOT" == false || "$GPST_RESERVED" == false ]] || die '--spot and --reserved exclude each other'
  # shellcheck source=tpu_scripts/chips.sh
  source "$SCRIPTS/chips.sh"
  # shellcheck disable=SC1090 # one of backends/*.sh
  source "$SCRIPTS/backends/$GPST_BACKEND.sh"
  backend_check
}

# Prints and runs a command that changes something; a dry run only prints it.
run() {
  if $GPST_DRY_RUN; then
    say "$(quote "$@")" >&3
  else
    note "+ $(quote "$@")"
    "$@"
  fi
}

# The same with standard input from the function or command named first: run_with SOURCE COMMAND...
run_with() {
  local source="$1"
  shift
  if $GPST_DRY_RUN; then
    say "$(quote "$@") <<'INPUT'" >&3
    say "$("$source")" >&3
    echo INPUT >&3
  else
    note "+ $(quote "$@") < ($source)"
    "$source" | "$@"
  fi
}

# Runs a read-only command; a dry run prints it and returns its first argument as the answer.
ask() {
  local planned="$1"
  shift
  if $GPST_DRY_RUN; then
    say "$(quote "$@")  # reads" >&3
    printf '%s' "$planned"
  else
    "$@"
  fi
}

# Asks for the name of the run before anything is deleted.
confirm() { # WHAT
  if $GPST_YES || $GPST_DRY_RUN; then return 0; fi
  local typed=''
  note "$1"
  read -r -p "type the name of the run to continue: " typed || true
  [[ "$typed" == "$GPST_NAME" ]] || die "nothing was deleted: '$typed' is not '$GPST_NAME' (or pass --yes)"
}

# Retries a command until it succeeds, at most --ssh_tries times.
with_retries() {
  local try code=0
  for ((try = 1; ; try++)); do
    code=0
    "$@" || code=$?
    # 255 is a failed ssh connection, and so may be 1 from gcloud. Other codes come from the command on
    # the host and would recur.
    if ((code == 0)) || ((code != 1 && code != 255)) || ((try >= GPST_SSH_TRIES)); then return "$code"; fi
    note "exit code $code at try $try of $GPST_SSH_TRIES: retrying in $GPST_WAIT s"
    sleep "$GPST_WAIT"
  done
}

# Calls a function for each host (and its index) in parallel, at most --parallel at a time; lines of
# output are prefixed with the host's name. Fails if any call fails, after all have finished.
for_all_hosts() { # FUNCTION ARGUMENT...
  local -a hosts=() jobs=()
  local index=0 failed=0 host job
  mapfile -t hosts < <(backend_hosts)
  ((${#hosts[@]})) || die "$GPST_NAME has no hosts: tpu_scripts/create.sh creates them"
  for host in "${hosts[@]}"; do
    if $GPST_DRY_RUN; then
      "$1" "$host" "$index" "${@:2}"
    else
      { set -o pipefail; with_retries "$1" "$host" "$index" "${@:2}" 2>&1 | sed -u "s|^|[$host] |"; } &
      jobs+=($!)
      if ((${#jobs[@]} >= GPST_PARALLEL)); then
        for job in "${jobs[@]}"; do wait "$job" || failed=1; done
        jobs=()
      fi
    fi
    index=$((index + 1))
  done
  for job in "${jobs[@]}"; do wait "$job" || failed=1; done
  return "$failed"
}

# Sets TRAIN to the training command, which is the same on every host.
train_command() { # PYTHON
  need config workdir data
  TRAIN=("$1" -m experiments.pretrain "--config=$GPST_CONFIG" "--workdir=$GPST_WORKDIR"
    "--config.data.path=$GPST_DATA" --distributed)
  TRAIN+=("${OVERRIDES[@]}" "${REST[@]}")
}

# Packs this checkout into the file PACKED, removed when the script ends: the files that git does not
# ignore, or without git all but .venv and runs.
pack_code() {
  PACKED=gpst_code.tar.gz
  if $GPST_DRY_RUN; then return 0; fi
  PACKED="$(mktemp -d)/gpst_code.tar.gz"
  # shellcheck disable=SC2064 # expanded now
  trap "rm -rf $(quote "${PACKED%/*}")" EXIT
  if git -C "$ROOT" rev-parse --git-dir >/dev/null 2>&1; then
    git -C "$ROOT" ls-files -z --cached --others --exclude-standard |
      tar -C "$ROOT" -czf "$PACKED" --null --ignore-failed-read -T -
  else
    tar -C "$ROOT" -czf "$PACKED" --exclude=./.venv --exclude=./runs .
  fi
}

# Prints NAME=VALUE for each secret that is set.
secret_lines() {
  local name
  for name in $GPST_SECRETS; do
    if [[ -n "${!name:-}" ]]; then printf '%s=%s\n' "$name" "${!name}"; fi
  done
}
