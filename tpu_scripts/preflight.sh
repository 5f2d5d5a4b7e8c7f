#!/usr/bin/env bash
# Checks a run before chips are allocated, on any Linux machine with access to its data and workdir:
# whether the dataset can be read, the train step compiles for the topology and fits its memory, and
# the workdir can be written; and estimates time and cost.
#
#   tpu_scripts/preflight.sh CONFIG TOPOLOGY --data=DIR --workdir=RUN [--num_slices=1]
#       [--rows_per_chip=N] [--hash] [--price_per_chip_hour=P] [--efficiency=0.5] [--goodput=0.95]
#       [--config.section.field=value ...] [--dry_run]
#
# CONFIG as in experiments.pretrain, TOPOLOGY as in experiments.compile, such as v5p:4x8x8.
# --hash reads every byte of the dataset. Exit codes: 0 ready; 2 bad input; 5 does not fit.
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
    --config.data.path=*) fail "$word: give the dataset as --data" ;;
    --config.*=*) compile+=("$word") last+=("$word") ;;
    --config.*) fail "$word: needs a value: $word=VALUE" ;;
    --set=*) fail "$word: write --config.${word#*=}" ;;
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

for path in "$data" "${workdir#gs://}"; do
  [[ "$path" != [a-zA-Z]*:/* ]] ||
    fail "$path: buckets are not accessed directly; mount the bucket and give the mounted path"
done

python="${PYTHON:-$ROOT/.venv/bin/python}"
[[ -x "$python" ]] || python="$(command -v python3)"
refusal="$("$python" "$ROOT/gpst_jax/parallel/topologies.py" "$topology")"
[[ -z "$refusal" ]] || fail "TOPOLOGY $topology: $refusal"
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

# The vocabulary sizes come from the dataset, so the step is compiled for it.
step 'dataset' "$python" -m data_pipeline.check_dataset "$data" "${check[@]}"
step 'train step, compiled for the slice' "$python" -m experiments.compile "--config=$config" \
  "--topology=$topology" "--config.data.path=$data" "${compile[@]}" "--json_out=$report"
step 'workdir and estimate' "$python" -m experiments.preflight "--config=$config" \
  "--compiled=$report" "--workdir=$workdir" "${last[@]}"
if ! $dry_run; then echo '== ready'; fi
