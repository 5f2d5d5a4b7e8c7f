"""Estimates time, chip-hours, cost and checkpoints of a run from its compiled step.

The times are lower bounds, not measurements: the roofline of `aot.compile_step` assumes perfect
overlap.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from gpst_jax.config import RunConfig


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Estimate of a complete run.

    Attributes:
        chips: in all slices.
        steps: of the run.
        step_s: roofline seconds of one step, divided by `efficiency`.
        hours: of all steps, divided by `goodput`.
        chip_hours: of all chips.
        cost: chip-hours times the price; None without one.
        mfu: model FLOPs utilisation at that speed.
        checkpoint_bytes: upper bound for one checkpoint: the step's arguments on the chips of
            one replica.
        checkpoint_s: seconds to write one at `bytes_per_s`; None without it.
        checkpoint_period_s: the shorter of the two periods of the config.
    """

    chips: int
    steps: int
    step_s: float
    hours: float
    chip_hours: float
    cost: float | None
    mfu: float
    checkpoint_bytes: int
    checkpoint_s: float | None
    checkpoint_period_s: float


def estimate_run(
    config: RunConfig,
    report: Mapping[str, Any],
    *,
    efficiency: float = 1.0,
    goodput: float = 1.0,
    price: float | None = None,
    bytes_per_s: float | None = None,
) -> Estimate:
    """Estimates a run.

    Args:
        config: of the run.
        report: what `experiments.compile --json_out` wrote for it.
        efficiency: speed of the step as a fraction of its roofline, in (0, 1].
        goodput: fraction of the wall time spent in steps, in (0, 1].
        price: of one chip for one hour, in any currency.
        bytes_per_s: write speed of checkpoints.
    """
    step_s = report["roofline_step_s"] / efficiency
    hours = config.train.steps * step_s / goodput / 3600
    shards = math.prod(size for axis, size in report["mesh"].items() if axis != "replica")
    size = report["hbm_bytes_per_chip"]["arguments"] * shards
    by_steps = config.train.checkpoint_every_steps * step_s
    return Estimate(
        chips=report["chips"],
        steps=config.train.steps,
        step_s=step_s,
        hours=hours,
        chip_hours=hours * report["chips"],
        cost=None if price is None else hours * report["chips"] * price,
        mfu=report["mfu_ceiling"] * efficiency,
        checkpoint_bytes=size,
        checkpoint_s=size / bytes_per_s if bytes_per_s else None,
        checkpoint_period_s=min(by_steps, 60 * config.train.checkpoint_every_minutes),
    )


def format_estimate(estimate: Estimate) -> str:
    """The estimate as text for a terminal."""
    cost = "give --price_per_chip_hour for the cost"
    if estimate.cost is not None:
        cost = f"cost {estimate.cost:,.2f}"
    save = ""
    if estimate.checkpoint_s is not None:
        save = f", {estimate.checkpoint_s:,.0f} s to write by one host"
    return "\n".join(
        [
            f"time             {estimate.steps:,} steps of {estimate.step_s:.3g} s: "
            f"{estimate.hours:,.1f} h on {estimate.chips:,} chips (MFU {estimate.mfu:.1%})",
            f"cost             {estimate.chip_hours:,.0f} chip-hours; {cost}",
            f"checkpoints      at most {estimate.checkpoint_bytes / 2**30:,.2f} GiB each{save}, "
            f"one every {estimate.checkpoint_period_s / 60:,.1f} min",
        ]
    )
