"""Compiles a run's train step for a TPU pod, on any Linux machine, and reports whether it fits.

    python -m experiments.compile --config=experiments/configs/gpst_1b.py --topology=v5p:4x4x4
    python -m experiments.compile --config=... --topology=v6e:16x16 --num_slices=2 \
        --config.mesh.replica=2 --rows_per_chip=4
    python -m experiments.compile --config=... --topology=v5e:4x4 --suggest
    python -m experiments.compile --budget=5000 [--config=...] [--topology=...] \
        [--assume=chip=v6e,hours=60000]

The program is the one that `pretrain` runs there. Needs `pip install gpst_jax[aot]`. Memory, FLOPs
and collectives are read from the compiled program; times are a roofline from the chip table in
gpst_jax/parallel/chips.py, not measurements. `--suggest` compiles several batch sizes with each
remat policy, some minutes each. `--budget` compiles nothing: it says which size, tokens, steps, pod
and time so many chip-hours (or FLOPs, `--budget=2e21flops`) buy (gpst_jax/compilation/budget.py).
Exit codes: 0 it fits; 2 bad input; 5 it does not fit.
"""

import dataclasses
import itertools
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

# libtpu only compiles; without this, JAX would look for a TPU on this machine first.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

from data_pipeline.runtime import cli, exit_codes
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json, write_text
from experiments import config_flags
from experiments.common import load_config, load_objective
from gpst_jax.compilation import aot, budget, budget_inputs
from gpst_jax.config import ConfigError, FlowConfig, GPSTConfig, RunConfig, SoundStormConfig
from gpst_jax.config.overrides import from_flags
from gpst_jax.objectives import GPSTObjective
from gpst_jax.parallel import topologies

_CONFIG = config_flags.DEFINE_config(
    "config", None, "Python file or module whose get_config() returns the run."
)
_TOPOLOGY = flags.DEFINE_string(
    "topology", None, "One slice, such as v5e:16x16, v6e:8x8 or v5p:4x4x8."
)
_NUM_SLICES = flags.DEFINE_integer("num_slices", 1, "Slices of that topology.", lower_bound=1)
_ROWS_PER_CHIP = flags.DEFINE_integer(
    "rows_per_chip", 0, "Sets data.batch_size to this many rows per chip; 0: as in the config.", 0
)
_SUGGEST = flags.DEFINE_bool(
    "suggest", False, "Search rows per chip and remat policy for the highest MFU ceiling that fits."
)
_HLO_OUT = flags.DEFINE_string("hlo_out", None, "File for the compiled program's HLO text.")
_BUDGET = flags.DEFINE_string(
    "budget",
    None,
    "Chip-hours, such as 5000, or FLOPs, such as 2e21flops: prints what they buy. Without --config "
    "the nearest of the configurations is named, without --topology a slice.",
)
_ASSUME = flags.DEFINE_list(
    "assume",
    [],
    "With --budget: inputs as NAME=VALUE, of "
    + ", ".join(field.name for field in dataclasses.fields(budget_inputs.Inputs))
    + ".",
)

# Among which --budget chooses.
_SIZES = ("gpst_190m", "gpst_1b", "gpst_3b", "gpst_7b")
_COMPILED = Path(__file__).resolve().parents[1] / "docs" / "pods"
# Doubling the rows stops when the MFU ceiling rises by less than this fraction.
_MIN_GAIN = 0.01
_CAUSES = 10  # lines about the causes of HBM traffic


class DoesNotFitError(ConfigError):
    """No setting that was tried fits into the memory of the chips."""


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    del argv
    if _BUDGET.value is not None:
        return spend(_BUDGET.value)
    if _ASSUME.value:
        raise UserError("--assume: its inputs are those of --budget; give that too")
    if not _CONFIG.value:
        raise UserError("--config: required")
    topology, num_slices = _slice(), _NUM_SLICES.value
    if _SUGGEST.value and _ROWS_PER_CHIP.value:
        raise UserError("--rows_per_chip: --suggest searches for it; give one of the two")
    if _ROWS_PER_CHIP.value:
        _CONFIG.refuse("data.batch_size", "--rows_per_chip sets it; give one of the two")
    if _SUGGEST.value:
        for field in ("data.batch_size", "model.remat"):
            _CONFIG.refuse(field, "--suggest searches for it; give one of the two")
    try:
        config = _CONFIG.load()
        if _SUGGEST.value:
            chips = len(aot.topology_devices(topology, num_slices))
            config, report, text = suggest(config, chips, compile_run)
        else:
            if _ROWS_PER_CHIP.value:
                chips = len(aot.topology_devices(topology, num_slices))
                config = with_rows(config, chips, _ROWS_PER_CHIP.value)
            report, text = compile_run(config)
    except DoesNotFitError as error:
        print(f"error: {error}", file=sys.stderr)
        return exit_codes.DOES_NOT_FIT
    except (ConfigError, ValueError) as error:
        raise UserError(str(error)) from error
    print(describe(config, report))
    if _SUGGEST.value:
        print(f"take               {' '.join(settings(config))}")
    if _HLO_OUT.value:
        write_text(Path(_HLO_OUT.value), text)
    if cli.JSON_OUT.value:
        run = {"config": config.name, "settings": settings(config)}
        write_json(cli.JSON_OUT.value, run | aot.to_json(report))
    return exit_codes.OK if report.fits else exit_codes.DOES_NOT_FIT


def _slice() -> str:
    if not _TOPOLOGY.value:
        raise UserError("--topology: required")
    return _TOPOLOGY.value


def spend(text: str) -> int:
    """Prints what a budget buys; returns the exit code.

    Args:
        text: the value of --budget.

    Raises:
        UserError: a bad budget or input, or no configuration or pod fits.
    """
    for name in ("suggest", "rows_per_chip", "hlo_out"):
        if flags.FLAGS[name].value:
            raise UserError(f"--{name}: --budget compiles nothing; give one of the two")
    try:
        inputs, pod = _given_pod(budget_inputs.assume(_ASSUME.value))
        named = _CONFIG.value
        if _CONFIG.overrides and not named:
            raise UserError("--config: give it with the fields that --config.section.field sets")
        runs = (
            [(named, _CONFIG.load())]
            if named
            else [
                (name, load_config(name)) for name in map("experiments.configs.{}".format, _SIZES)
            ]
        )
        candidates = [candidate(name, config) for name, config in runs]
        plan = budget.plan(budget_inputs.parse(text), candidates, inputs, pod)
    except ConfigError as error:
        raise UserError(str(error)) from error
    print("\n".join(budget.lines(plan)))
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, dataclasses.asdict(plan))
    return exit_codes.OK


def _given_pod(
    inputs: budget_inputs.Inputs,
) -> tuple[budget_inputs.Inputs, tuple[str, int] | None]:
    """The inputs with the chip of --topology, and that pod; None without the flag."""
    topology, num_slices = _TOPOLOGY.value, _NUM_SLICES.value
    if not topology:
        if num_slices > 1:
            raise UserError("--num_slices: with --budget it needs --topology")
        return inputs, None
    if any(assignment.startswith("chip=") for assignment in _ASSUME.value):
        raise UserError("--assume=chip: --topology names the chip; give one of the two")
    if reason := topologies.refusal(topology):
        raise UserError(f"--topology={topology}: {reason}")
    chip, _, shape = topology.partition(":")
    count = num_slices * math.prod(map(int, shape.split("x")))
    name = f"{num_slices} x {topology}" if num_slices > 1 else topology
    return dataclasses.replace(inputs, chip=chip), (name, count)


def candidate(name: str, config: RunConfig) -> budget.Candidate:
    """A GPST configuration as `budget.plan` takes it; its compiled programs are of docs/pods.

    Raises:
        UserError: it is of another family.
    """
    objective = load_objective(name, config)
    if not isinstance(objective, GPSTObjective):
        raise UserError(f"--config={name}: --budget knows the law of GPST's streams only")
    model, layout, mesh = config.model_as(GPSTConfig), objective.layout, config.mesh
    shapes = jax.eval_shape(objective.init, jax.random.key(0))
    compiled: dict[str, budget.Compiled] = {}
    for path in sorted(_COMPILED.glob(f"{config.name}-[0-9]*.json")):  # no variant of it
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["config"] == config.name and found["fits"]:
            chip, rows = found["topology"].partition(":")[0], _rows_per_device(found, config)
            step = budget.Compiled(path.stem, found["mfu_ceiling"], rows)
            compiled[chip] = max(compiled.get(chip, step), step, key=lambda step: step.ceiling)
    parts = (("global", model.global_net), ("local", model.local_net))
    return budget.Candidate(
        name=config.name,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(shapes)),
        shape=", ".join(
            f"{part} {net.num_layers} layers of width {net.d_model}" for part, net in parts
        ),
        flops_per_step=sum(objective.flops().values()),
        batch_size=config.data.batch_size,
        accumulated=config.train.grad_accum_steps,
        tensor=mesh.tensor,
        shard=max(mesh.fsdp, 1),  # -1: whatever there is
        seconds_per_row=config.data.crop_seconds,
        tokens_per_second=layout.unit_rate + layout.frame_rate * layout.num_codebooks,
        compiled=compiled,
    )


def _rows_per_device(found: dict[str, Any], config: RunConfig) -> int:
    """Rows of a device in a micro-batch of a result in docs/pods."""
    given = dict(setting.split("=", 1) for setting in from_flags(found["settings"]))
    devices = found["mesh"]["replica"] * found["mesh"]["fsdp"]
    accumulated = int(given.get("train.grad_accum_steps", config.train.grad_accum_steps))
    return int(given["data.batch_size"]) // devices // accumulated


def compile_run(config: RunConfig) -> tuple[aot.Report, str]:
    """Compiles the train step of `config` for --topology and --num_slices."""
    objective = load_objective(_CONFIG.value, config)
    return aot.compile_step(objective, config, _slice(), _NUM_SLICES.value)


def with_rows(config: RunConfig, chips: int, rows_per_chip: int) -> RunConfig:
    """`config` with this many rows per chip in each micro-batch."""
    rows = rows_per_chip * chips * config.train.grad_accum_steps
    return dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=rows))


def settings(config: RunConfig) -> list[str]:
    """The settings that --suggest searches, as flags."""
    return [
        f"--config.data.batch_size={config.data.batch_size}",
        f"--config.model.remat={config.model.remat}",
    ]


def suggest(
    config: RunConfig, chips: int, compiled: Callable[[RunConfig], tuple[aot.Report, str]]
) -> tuple[RunConfig, aot.Report, str]:
    """The run of highest MFU ceiling: for each remat policy, rows per chip are doubled.

    Doubling stops where the program does not fit or the ceiling hardly rises.

    Args:
        config: the run; its batch size and remat policy are replaced.
        chips: number of chips of the pod.
        compiled: compiles a run, as `compile_run`.

    Raises:
        DoesNotFitError: nothing fits.
    """
    best: tuple[RunConfig, aot.Report, str] | None = None
    for remat in ("none", "dots", "full"):
        rows, before = 1, 0.0
        while True:
            trial = with_rows(config, chips, rows)
            trial = dataclasses.replace(trial, model=dataclasses.replace(trial.model, remat=remat))
            report, text = compiled(trial)
            memory = report.hbm_bytes_per_chip
            print(
                f"remat={remat} rows_per_chip={rows}: {_gib(memory.total)} of "
                f"{_gib(memory.capacity)}, "
                + (f"MFU ceiling {report.mfu_ceiling:.1%}" if report.fits else "does not fit"),
                flush=True,
            )
            if not report.fits:
                break
            if best is None or report.mfu_ceiling > best[1].mfu_ceiling:
                best = trial, report, text
            if report.mfu_ceiling < (1 + _MIN_GAIN) * before:
                break
            rows, before = 2 * rows, report.mfu_ceiling
    if best is None:
        raise DoesNotFitError(
            "config field data.batch_size: one row per chip does not fit with any remat policy: "
            "raise mesh.tensor, reduce data.sequence_length, or use a larger slice"
        )
    return best


def describe(config: RunConfig, report: aot.Report) -> str:
    """The report as text."""
    memory, flops = report.hbm_bytes_per_chip, report.flops_per_step
    mesh = " x ".join(f"{name} {size}" for name, size in report.mesh.items())
    data, on_frames = config.data, isinstance(config.model, FlowConfig | SoundStormConfig)
    row = f"{data.frame_budget} frames" if on_frames else f"{data.sequence_length} positions"
    lines = [
        f"{config.name} on {report.num_slices} x {report.topology}: {report.chips} chips, {mesh}, "
        f"{data.batch_size} rows of {row}, "
        f"remat {config.model.remat}   (compile-only estimate)",
        f"parameters         {report.parameters:,}",
    ]
    if not report.hbm_bytes_per_chip.arguments:
        return "\n".join(
            [
                *lines,
                f"DOES NOT FIT       needs {memory.total:,} bytes per chip of {memory.capacity:,}: "
                f"{report.overrun_bytes:,} too many",
            ]
        )
    lines += [
        f"memory per chip    {_gib(memory.total)} of {_gib(memory.capacity)}: arguments "
        f"{_gib(memory.arguments)}, temporaries {_gib(memory.temporaries)}, outputs "
        f"{_gib(memory.outputs)}",
        f"FLOPs per step     formula {flops['formula']:.4e}; emitted matrix products "
        f"{flops['compiler']:.4e} + attention kernels {flops['kernels']:.4e} "
        f"(recomputed: {(flops['compiler'] + flops['kernels']) / flops['formula'] - 1:+.1%})",
        f"HBM traffic        {_gib(report.memory_traffic_bytes)} per chip and step; the most:",
        *(
            f"  {cause:48} {_gib(moved)}"
            for cause, moved in itertools.islice(report.traffic_by_cause.items(), _CAUSES)
        ),
        "collectives        kind, axis, network, count, bytes sent per chip, time alone",
    ]
    for item in report.collectives:
        lines.append(
            f"  {item.kind:20} {item.axis:14} {item.network}  {item.count:5}  "
            f"{item.bytes:15,.0f}  {1e3 * item.seconds:9.3f} ms"
        )
    times = ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in report.roofline_s.items())
    lines += [
        f"roofline           {times}",
        f"step               {1e3 * report.roofline_step_s:.2f} ms, bound by {report.bound}; "
        f"MFU ceiling {report.mfu_ceiling:.1%}",
    ]
    if not report.fits:
        lines.append(f"DOES NOT FIT       {report.overrun_bytes:,} bytes per chip too many")
    return "\n".join(lines)


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"


if __name__ == "__main__":
    cli.run(main)
