"""Prints the status of a run: step, loss, MFU, goodput, last checkpoint, restarts.

    python -m experiments.status --workdir=RUN [--json_out=FILE]

Only reads the workdir, so it works during a run and after it. `tpu_scripts/status.sh` runs it on
the first host.
"""

import dataclasses
import os
from pathlib import Path

from absl import flags

# Nothing is computed here: the run keeps the accelerators.
os.environ["JAX_PLATFORMS"] = "cpu"

from data_pipeline.runtime import cli
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from gpst_jax.training.status import format_status, read_status

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of a training run.", required=True)


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    del argv
    if not Path(_WORKDIR.value).is_dir():
        raise UserError(f"--workdir={_WORKDIR.value}: no such directory")
    try:
        status = read_status(_WORKDIR.value)
    except ValueError as error:
        raise UserError(str(error)) from error
    print(format_status(status))
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, dataclasses.asdict(status))
    return 0


if __name__ == "__main__":
    cli.run(main)
