"""Compiles a run's train step for a TPU pod, on any Linux machine, and says whether it fits.

    python -m experiments.compile --config=experiments/configs/gpst_1b.py --topology=v5p:4x4x4
    python -m experiments.compile --config=... --topology=v6e:16x16 --num_slices=2 \
        --set=mesh.replica=2 --rows_per_chip=4

The program is the very one that `pretrain` runs there; it needs `pip install gpst_jax[aot]`.
Memory, FLOPs and collectives are read from it; times are a roofline from the chip table in
gpst_jax/chips.py, not measurements. Exit codes: 0 it fits; 1 it does not; 2 bad input.
"""

import dataclasses
import os
from pathlib import Path

from absl import flags

# libtpu is only asked to compile; without this JAX would look for a TPU here first.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from data_pipeline import cli
from experiments.run_config import load_config, load_layout
from gpst_jax import aot, sharding
from gpst_jax.config import ConfigError, RunConfig
from gpst_jax.objectives import GPSTObjective

_CONFIG = flags.DEFINE_string(
    "config", None, "Python file or module whose get_config() returns the run.", required=True
)
_TOPOLOGY = flags.DEFINE_string(
    "topology", None, "One slice, such as v5e:16x16, v6e:8x8 or v5p:4x4x8.", required=True
)
_NUM_SLICES = flags.DEFINE_integer("num_slices", 1, "Slices of that topology.", lower_bound=1)
_ROWS_PER_CHIP = flags.DEFINE_integer(
    "rows_per_chip", 0, "Sets data.rows to this many for each chip; 0: as in the config."
)
_SET = flags.DEFINE_multi_string(
    "set", [], "Override of one field, as section.field=value; may be given several times."
)
_SUGGEST = flags.DEFINE_bool(
    "suggest", False, "Search rows per chip and remat for the highest MFU ceiling that fits."
)
_HLO_OUT = flags.DEFINE_string("hlo_out", None, "File that takes the compiled program's text.")


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    del argv
    try:
        config = load_config(_CONFIG.value).override(_SET.value)
        if _ROWS_PER_CHIP.value:
            config = with_rows(config, _TOPOLOGY.value, _NUM_SLICES.value, _ROWS_PER_CHIP.value)
        if _SUGGEST.value:
            config, report, text = suggest(config)
        else:
            report, text = compile_run(config)
    except (ConfigError, ValueError) as error:
        raise cli.UserError(str(error)) from error
    print(describe(config, report))
    if _HLO_OUT.value:
        cli.write_text(Path(_HLO_OUT.value), text)
    if cli.JSON_OUT.value:
        cli.write_json(cli.JSON_OUT.value, {"config": config.name} | aot.to_json(report))
    return 0 if report.fits else 1


def compile_run(config: RunConfig) -> tuple[aot.Report, str]:
    """Compiles `config` for the topology of the flags."""
    objective = GPSTObjective(config, load_layout(_CONFIG.value, config))
    return aot.compile_step(objective, config, _TOPOLOGY.value, _NUM_SLICES.value)


def with_rows(config: RunConfig, topology: str, num_slices: int, rows_per_chip: int) -> RunConfig:
    """`config` with so many rows for each data-parallel chip of the pod."""
    devices = aot.topology_devices(topology, num_slices)
    replica, fsdp, tensor = sharding.mesh_shape(config.mesh, len(devices))
    rows = rows_per_chip * replica * fsdp * tensor * config.train.accumulate
    return dataclasses.replace(config, data=dataclasses.replace(config.data, rows=rows))


def suggest(config: RunConfig) -> tuple[RunConfig, aot.Report, str]:
    """The best of a small search: rows per chip double while they fit, for each remat policy.

    Raises:
        ConfigError: nothing fits.
    """
    best: tuple[RunConfig, aot.Report, str] | None = None
    for remat in ("none", "dots", "full"):
        rows = 1
        while True:
            trial = with_rows(config, _TOPOLOGY.value, _NUM_SLICES.value, rows)
            trial = dataclasses.replace(trial, model=dataclasses.replace(trial.model, remat=remat))
            report, text = compile_run(trial)
            ceiling = f"MFU ceiling {report.mfu_ceiling:.1%}" if report.fits else "does not fit"
            print(f"remat={remat} rows_per_chip={rows}: {ceiling}", flush=True)
            if not report.fits:
                break
            if best is None or report.mfu_ceiling > best[1].mfu_ceiling:
                best = trial, report, text
            rows *= 2
    if best is None:
        raise ConfigError(
            "config field data.rows: one row per chip does not fit with any remat policy: raise "
            "mesh.tensor, shorten data.row_length, or take a larger slice"
        )
    return best


def describe(config: RunConfig, report: aot.Report) -> str:
    """The report as text."""
    memory, flops = report.hbm_bytes_per_chip, report.flops_per_step
    mesh = " x ".join(f"{name} {size}" for name, size in report.mesh.items())
    lines = [
        f"{config.name} on {report.num_slices} x {report.topology}: {report.chips} chips, {mesh}, "
        f"{config.data.rows} rows of {config.data.row_length} positions, "
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
        f"HBM traffic        {_gib(report.memory_traffic_bytes)} per chip and step",
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
