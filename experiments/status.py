"""Prints the status of a run: step, loss, MFU, goodput, last checkpoint, restarts.

    python -m experiments.status --workdir=RUN [--expect=CURVE.json] [--json_out=FILE]

With `--expect` it also says whether the losses are on an expected curve, and ends with code 3 where
they are not; `--write_curve=CURVE.json` makes such a file of a run (docs/runs.md).

Only reads the workdir, so it works during a run and after it. `tpu_scripts/status.sh` runs it on
the first host.
"""

import dataclasses
import os

from absl import flags

# Nothing is computed here: the run keeps the accelerators.
os.environ["JAX_PLATFORMS"] = "cpu"

from data_pipeline.runtime import cli, exit_codes, flag_rules
from data_pipeline.runtime.buckets import access, location
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from gpst_jax.trackers.jsonl import METRICS_FILE, read_metrics
from gpst_jax.training import curves
from gpst_jax.training.status import format_status, read_status

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of a training run, or gs://BUCKET/NAME.", required=True
)
flag_rules.may_be_in_buckets("workdir")
_EXPECT = flags.DEFINE_string("expect", None, "File of an expected curve to compare with.")
_WRITE_CURVE = flags.DEFINE_string("write_curve", None, "File for the curve of this run.")
_CURVE_STEPS = flags.DEFINE_list(
    "curve_steps", [], "With --write_curve: its steps, by commas; default: eight, evenly spaced."
)
_TOLERANCE = flags.DEFINE_float(
    "tolerance", 0.05, "With --write_curve: relative difference that still counts as on it.", 0, 1
)


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    del argv
    with access(_WORKDIR.value):
        if not location(_WORKDIR.value).is_dir():
            raise UserError(f"--workdir={_WORKDIR.value}: no such directory")
    if not _WRITE_CURVE.value:
        flag_rules.refuse(("curve_steps", "tolerance"), "is given with --write_curve only")
    steps = _steps()
    expected = curves.read_curve(_EXPECT.value) if _EXPECT.value else None
    try:
        status = read_status(_WORKDIR.value)
        lines = read_metrics(location(_WORKDIR.value) / METRICS_FILE)
    except ValueError as error:
        raise UserError(str(error)) from error
    print(format_status(status))
    result = dataclasses.asdict(status)
    code = exit_codes.OK
    if expected:
        agreement = curves.compare(expected, lines)
        for line in curves.format_agreement(agreement):
            print(f"expected curve   {line}")
        result["expected"] = dataclasses.asdict(agreement)
        code = exit_codes.PARTIAL if agreement.deviations else exit_codes.OK
    if _WRITE_CURVE.value:
        curve = curves.make_curve(lines, steps, _TOLERANCE.value, status.rates)
        write_json(_WRITE_CURVE.value, curve)
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, result)
    return code


def _steps() -> list[int]:
    for word in _CURVE_STEPS.value:
        if not word.isdecimal():
            raise UserError(f"--curve_steps={word}: give numbers of steps, such as 100,500,1000")
    return [int(word) for word in _CURVE_STEPS.value]


if __name__ == "__main__":
    cli.run(main)
