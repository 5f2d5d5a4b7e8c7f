#!/usr/bin/env bash
# What can be known of a run before its chips cost money, on any Linux machine that sees its data and
# its workdir: whether the step compiles for the topology and fits its memory, whether the dataset
# can be read, whether the workdir can be written, and what the run will take.
#
#   tpu_scripts/preflight.sh CONFIG TOPOLOGY --data=DIR --workdir=RUN [--num_slices=1]
#       [--rows_per_chip=N] [--hash] [--price_per_chip_hour=P] [--efficiency=0.5] [--goodput=0.95]
#       [--set=section.field=value ...] [--dry_run]
#
# CONFIG as of experiments.pretrain, TOPOLOGY as of experiments.compile, such as v5p:4x8x8.
# --hash reads every byte of the dataset. Exit codes: 0 all is well; 1 it does not fit; 2 anything else.
set -euo pipefail
SCRIPTS="$(cd "${BASH_SOURCE[0]%/*}" && pwd)"
ROOT="${SCRIPTS%/*}"

fail() {
  echo "error: $1" >&2
  exit 2
}

config='' topology='' data='' workdir='' dry_run=false
compile=() check=() last=()
for word in "$@"; do
  case "$word" in
    --help)
      sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$0"
      exit 0
      ;;
    --dry_run) dry_run=true ;;
    --data=*) data="${word#*=}" ;;
    --workdir=*) workdir="${word#*=}" ;;
    --num_slices=* | --rows_per_chip=*) compile+=("$word") ;;
    --set=*) compile+=("$word") last+=("$word") ;;
    --hash) check+=("$word") ;;
    --price_per_chip_hour=* | --efficiency=* | --goodput=* | --json_out=*) last+=("$word") ;;
    -*) fail "unknown flag $word: see --help" ;;
    *)
      if [[ -z "$config" ]]; then
        config="$word"
      elif [[ -z "$topology" ]]; then
        topology="$word"
      else
        fail "unknown argument '$word': see --help"
      fi
      ;;
  esac
done
[[ -n "$topology" && -n "$data" && -n "$workdir" ]] ||
  fail 'usage: preflight.sh CONFIG TOPOLOGY --data=DIR --workdir=RUN; see --help'

python="${PYTHON:-$ROOT/.venv/bin/python}"
[[ -x "$python" ]] || python="$(command -v python3)"
report="$(mktemp)"
trap 'rm -f "$report"' EXIT

step() { # TITLE COMMAND...
  if $dry_run; then
    printf '%q ' "${@:2}" | sed "s|$report|REPORT|; s|^$python|python|; s| \$||"
    echo
  else
    echo "== $1"
    PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" "${@:2}"
  fi
}

# The dataset names the tokens, so the step is compiled for them.
step 'the dataset' "$python" -m data_pipeline.check_dataset "$data" "${check[@]}"
step 'the step, compiled for the slice' "$python" -m experiments.compile "--config=$config" \
  "--topology=$topology" "--set=data.path=$data" "${compile[@]}" "--json_out=$report"
step 'the workdir, and what the run will take' "$python" -m experiments.preflight "--config=$config" \
  "--compiled=$report" "--workdir=$workdir" "${last[@]}"
if ! $dry_run; then echo '== ready'; fi
