"""The last checks before a paid run: its storage, and an estimate of time and cost.

    python -m experiments.preflight --config=CONFIG --compiled=FILE --workdir=RUN \
        [--price_per_chip_hour=P] [--efficiency=0.5] [--goodput=0.95]

`--compiled` is the report of `experiments.compile --json_out`. Writes, reads back and removes a
file of `--probe_mib` in the workdir, which may be gs://BUCKET/NAME. A step is estimated to take its
roofline time divided by `--efficiency`, which is an assumption until a run has been measured.
`tpu_scripts/preflight.sh` runs `data_pipeline.check_dataset`, `experiments.compile` and this
program.

Exit codes: 0 all checks passed; 2 the workdir cannot be used, or bad input; 5 the run does not fit
into memory; 74 the workdir is full.
"""

import dataclasses
import json
import os
import sys
import time
import uuid
from pathlib import Path

from absl import flags

os.environ["JAX_PLATFORMS"] = "cpu"

from data_pipeline.runtime import buckets, cli, exit_codes
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from experiments.pretrain import CONFIG, make_workdir
from gpst_jax.compilation.estimate import estimate_run, format_estimate
from gpst_jax.config.overrides import from_flags

for _name in ("config", "workdir"):  # which pretrain defines
    flags.declare_key_flag(_name)
_COMPILED = flags.DEFINE_string("compiled", None, "Report of experiments.compile.", required=True)
_PRICE = flags.DEFINE_float("price_per_chip_hour", None, "Price in any currency.", lower_bound=0.0)
_EFFICIENCY = flags.DEFINE_float(
    "efficiency", 0.5, "Speed of a step as a fraction of its roofline.", 1e-6, 1.0
)
_GOODPUT = flags.DEFINE_float(
    "goodput", 0.95, "Fraction of the time in which steps run.", 1e-6, 1.0
)
_PROBE_MIB = flags.DEFINE_integer("probe_mib", 64, "Size of the probe file.", lower_bound=1)


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    del argv
    config, workdir = CONFIG.load(), flags.FLAGS.workdir
    try:
        report = json.loads(Path(_COMPILED.value).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--compiled={_COMPILED.value}: {error}") from error
    if report.get("fits") is False:
        print(f"error: --compiled={_COMPILED.value}: the run does not fit", file=sys.stderr)
        return exit_codes.DOES_NOT_FIT
    rate = write_probe(workdir, _PROBE_MIB.value)
    estimate = estimate_run(
        config,
        report,
        efficiency=_EFFICIENCY.value,
        goodput=_GOODPUT.value,
        price=_PRICE.value,
        bytes_per_s=rate,
    )
    if settings := from_flags(report.get("settings", [])):
        print(f"compiled         with {', '.join(settings)}")
    print(f"workdir          {workdir}: written and read back at {rate / 2**20:,.0f} MiB/s")
    print(format_estimate(estimate))
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, dataclasses.asdict(estimate) | {"bytes_per_s": round(rate)})
    return 0


def write_probe(workdir: str, mib: int) -> float:
    """Writes, renames, reads back and removes a file; returns the write rate in bytes per second.

    Raises:
        UserError: the workdir cannot be created or written, or reads back other bytes.
    """
    make_workdir(workdir)
    if buckets.is_bucket(workdir):
        return _write_object(workdir, mib)
    block = os.urandom(2**20)
    path = Path(workdir) / f".preflight-{uuid.uuid4().hex}"
    final = path.with_suffix(".done")
    try:
        began = time.perf_counter()
        with path.open("wb") as file:
            for _ in range(mib):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        seconds = time.perf_counter() - began
        path.rename(final)
        with final.open("rb") as file:
            same = all(file.read(2**20) == block for _ in range(mib)) and not file.read(1)
    except OSError as error:
        raise UserError(
            f"--workdir={workdir}: a file of {mib} MiB cannot be written: {error.strerror}; free "
            "space or give write access"
        ) from error
    finally:
        path.unlink(missing_ok=True)
        final.unlink(missing_ok=True)
    if not same:
        raise UserError(f"--workdir={workdir}: a file reads back other bytes than were written")
    return mib * 2**20 / seconds


def _write_object(workdir: str, mib: int) -> float:
    """`write_probe` in a bucket, where an object is whole or absent."""
    data = os.urandom(2**20) * mib
    path = f"{workdir.rstrip('/')}/.preflight-{uuid.uuid4().hex}"
    try:
        began = time.perf_counter()
        buckets.write(path, data)
        seconds = time.perf_counter() - began
        same = buckets.read(path) == data
    finally:
        buckets.remove(path)
    if not same:
        raise UserError(f"--workdir={workdir}: an object reads back other bytes than were written")
    return mib * 2**20 / seconds


if __name__ == "__main__":
    cli.run(main)
