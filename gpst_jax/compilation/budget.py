"""What a budget of compute buys: model size, tokens, steps, pod slice and wall time.

A scaling law gives the compute-optimal size for C FLOPs, N = N_0 (C / C_0)^a; the formula of the
objective (`GPSTObjective.flops`) gives the FLOPs of a step of the configuration that is nearest to
that size, and with them the steps, seconds of audio and tokens that C pays for. The law's own
number of tokens, D = D_0 (C / C_0)^b, stands beside it: it is of flat models, which run every token
through the whole network, and a hierarchical one spends less on each.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from gpst_jax.compilation.budget_inputs import FLOPS, Inputs, Law, find_chip
from gpst_jax.config import ConfigError
from gpst_jax.parallel import topologies

# Sizes beyond this factor from every configuration are refused.
FARTHEST = 3.0
# Repeated data is nearly as good as new for so many epochs (arXiv 2305.16264, of text).
MOST_EPOCHS = 4.0
# Of the MFU ceiling that the compiled program leaves; assumed, no step was timed on a TPU.
OF_CEILING = 0.8


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A step that was compiled for some pod, and fits.

    Attributes:
        name: of its file in docs/pods.
        ceiling: of the MFU.
        rows: of a device in a micro-batch.
    """

    name: str
    ceiling: float
    rows: int


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A configuration that a budget may be spent on.

    Attributes:
        name: of the configuration.
        parameters: of the model.
        shape: its depths and widths, for the reader.
        flops_per_step: by the objective's formula, of a global batch.
        batch_size: rows of a step.
        accumulated: micro-batches of a step.
        tensor: devices that share a row.
        shard: devices among which the parameters of a replica are sharded, as `mesh.fsdp`.
        seconds_per_row: of audio; full rows.
        tokens_per_second: predicted tokens per second of audio: frame rate x codebooks + units.
        compiled: the compiled step of the highest ceiling, by chip.
    """

    name: str
    parameters: int
    shape: str
    flops_per_step: float
    batch_size: int
    accumulated: int
    tensor: int
    shard: int
    seconds_per_row: float
    tokens_per_second: float
    compiled: Mapping[str, Compiled]

    def rows_of(self, devices: int) -> int | None:
        """Rows of each device in a micro-batch; None where mesh or batch do not divide."""
        rows, data = self.batch_size // self.accumulated, devices // self.tensor
        divides = devices % (self.shard * self.tensor) == 0 and rows % data == 0
        return rows // data if divides else None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a budget buys.

    Attributes:
        flops: C, of the model; recomputation not counted.
        chip_hours: that it takes, the time between steps included.
        optimal_parameters: by the law.
        optimal_tokens: by the law, in its own tokens.
        optimal_hours: of audio, by the law.
        extrapolated: whether C is outside of what the law was fitted to.
        config: nearest configuration.
        parameters: of it.
        shape: its depths and widths.
        steps: optimiser updates.
        tokens: predicted, of the configuration's streams.
        hours: of audio, repetitions included.
        epochs: passes through the audio at hand; None where it is not known.
        mfu: that is assumed.
        compiled: the step that says how high the MFU may be; None where there is none.
        pod: slices or number of GPUs.
        chips: in all.
        rows_per_device: in a micro-batch.
        wall_hours: on that pod.
        inputs: what was assumed.
    """

    flops: float
    chip_hours: float
    optimal_parameters: float
    optimal_tokens: float
    optimal_hours: float
    extrapolated: bool
    config: str
    parameters: int
    shape: str
    steps: int
    tokens: float
    hours: float
    epochs: float | None
    mfu: float
    compiled: Compiled | None
    pod: str
    chips: int
    rows_per_device: int
    wall_hours: float
    inputs: Inputs


def mfu_of(candidate: Candidate, inputs: Inputs) -> float:
    """The MFU that is assumed for a configuration."""
    if inputs.mfu is not None:
        return inputs.mfu
    compiled = candidate.compiled.get(inputs.chip)
    return 0.4 if compiled is None else min(0.4, OF_CEILING * compiled.ceiling)


def plan(
    budget: tuple[float, str],
    candidates: Sequence[Candidate],
    inputs: Inputs,
    pod: tuple[str, int] | None = None,
) -> Plan:
    """Spends a budget.

    Args:
        budget: number and unit, of `parse`.
        candidates: configurations to choose from; one alone is taken whatever its size.
        inputs: what is assumed.
        pod: name and number of chips, where they are given; None: chosen by `slice_for`.

    Raises:
        ConfigError: no configuration is within `FARTHEST` of the law's size, or no pod fits.
    """
    law, chip = inputs.law(), find_chip(inputs.chip)
    peak = chip.flops * chip.devices

    def flops(candidate: Candidate) -> float:
        number, unit = budget
        rate = peak * mfu_of(candidate, inputs) * inputs.goodput
        return number if unit == FLOPS else number * 3600 * rate

    def distance(candidate: Candidate) -> float:
        return abs(math.log(candidate.parameters / law.optimal_parameters(flops(candidate))))

    chosen = min(candidates, key=distance)
    spent, mfu = flops(chosen), mfu_of(chosen, inputs)
    optimal = law.optimal_parameters(spent)
    if len(candidates) > 1 and distance(chosen) > math.log(FARTHEST):
        raise ConfigError(
            f"--budget: the law asks for {optimal / 1e6:,.0f} million parameters, and the nearest "
            f"configuration, {chosen.name}, has {chosen.parameters / 1e6:,.0f} million: name one "
            "with --config, or change the budget"
        )
    chip_hours = spent / (3600 * peak * mfu * inputs.goodput)
    name, count = pod or slice_for(chosen, inputs, chip_hours)
    rows = chosen.rows_of(count * chip.devices)
    if rows is None:
        raise ConfigError(f"--topology={name}: {_undivided(chosen)}")
    steps = max(int(spent // chosen.flops_per_step), 1)
    hours = steps * chosen.batch_size * chosen.seconds_per_row / 3600
    rate = inputs.tokens_per_second or chosen.tokens_per_second
    tokens = law.optimal_tokens(spent)
    return Plan(
        flops=spent,
        chip_hours=chip_hours,
        optimal_parameters=optimal,
        optimal_tokens=tokens,
        optimal_hours=tokens / law.tokens_per_second / 3600,
        extrapolated=not law.lowest <= spent <= law.highest,
        config=chosen.name,
        parameters=chosen.parameters,
        shape=chosen.shape,
        steps=steps,
        tokens=3600 * hours * rate,
        hours=hours,
        epochs=None if inputs.hours is None else hours / inputs.hours,
        mfu=mfu,
        compiled=chosen.compiled.get(inputs.chip),
        pod=name,
        chips=count,
        rows_per_device=rows,
        wall_hours=chip_hours / count,
        inputs=dataclasses.replace(inputs, mfu=mfu, tokens_per_second=rate),
    )


def slice_for(candidate: Candidate, inputs: Inputs, chip_hours: float) -> tuple[str, int]:
    """The smallest pod that is done within `inputs.days`, or else the largest: name and chips.

    Only those count on which a device has no more rows than in the compiled step.

    Raises:
        ConfigError: the mesh and the batch size divide none of the pods.
    """
    devices, compiled = find_chip(inputs.chip).devices, candidate.compiled.get(inputs.chip)
    most = math.inf if compiled is None else compiled.rows
    fitting = [
        (name, count)
        for name, count in pods_of(inputs.chip)
        if 0 < (candidate.rows_of(count * devices) or 0) <= most
    ]
    if not fitting:
        raise ConfigError(f"--assume=chip={inputs.chip}: {_undivided(candidate)}")
    in_time = [pod for pod in fitting if chip_hours / pod[1] <= 24 * inputs.days]
    return in_time[0] if in_time else fitting[-1]


def _undivided(candidate: Candidate) -> str:
    return (
        f"its chips do not divide {candidate.name}: {candidate.batch_size} rows in "
        f"{candidate.accumulated} micro-batches, mesh.fsdp {candidate.shard}, mesh.tensor "
        f"{candidate.tensor}; change these fields or the pod"
    )


def pods_of(name: str) -> list[tuple[str, int]]:
    """Slices of a TPU, or numbers of a GPU, in powers of two: names and chips, ascending."""
    if name in topologies.GENERATIONS:
        return topologies.slices(name)
    return [(f"{2**power} x {name}", 2**power) for power in range(13)]


def lines(found: Plan) -> list[str]:
    """The plan as text for a terminal, with every input."""
    inputs = found.inputs
    compiled, ceiling = found.compiled, "no ceiling known"
    if compiled:
        ceiling = f"ceiling {compiled.ceiling:.0%}, compile-only, docs/pods/{compiled.name}.json"
    source = " (arXiv 2602.16687)" if inputs.law() == Law() else ""
    text = [
        f"budget             {found.flops:.3e} FLOPs of the model: {found.chip_hours:,.0f} "
        f"chip-hours of {inputs.chip} at MFU {found.mfu:.1%} ({ceiling})",
        f"law                {found.optimal_parameters / 1e6:,.0f}M parameters{source}; of a flat "
        f"model {found.optimal_tokens / 1e9:,.1f}B tokens, {found.optimal_hours:,.0f} h of "
        "audio",
        f"nearest config     {found.config}: {found.parameters / 1e6:,.1f}M parameters, "
        f"{found.shape}",
        f"run                {found.steps:,} steps, {found.tokens / 1e9:,.1f}B tokens, "
        f"{found.hours:,.0f} h of audio",
        f"pod                {found.pod}, {found.chips:,} chips, {found.rows_per_device} rows per "
        f"device: {found.wall_hours / 24:,.1f} days",
    ]
    if found.epochs is not None:
        text.append(f"epochs             {found.epochs:,.2f} of {inputs.hours:,.0f} h")
    given = ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in dataclasses.asdict(inputs).items()
        if value is not None
    )
    text.append(f"assumed            {given}")
    return text + [f"warning            {warning}" for warning in warnings(found)]


def warnings(found: Plan) -> list[str]:
    """What speaks against a plan."""
    inputs, said = found.inputs, []
    if found.extrapolated:
        said.append("the budget is outside of those that the law was fitted to, 3e18 to 3e20 FLOPs")
    if found.wall_hours > 24 * inputs.days:
        said.append(f"the run takes more than days={inputs.days:g}")
    if found.compiled is None:
        said.append("no such step was compiled: check its memory without --budget")
    elif found.rows_per_device > found.compiled.rows:
        said.append(
            f"a device has more rows than the {found.compiled.rows} of the compiled step: raise "
            "train.grad_accum_steps"
        )
    if found.epochs is None:
        said.append("the epochs are unknown: give the audio at hand, --assume=hours=HOURS")
    elif found.epochs > MOST_EPOCHS:
        said.append(
            f"more than {MOST_EPOCHS:g} epochs: repeated audio then adds little (arXiv 2305.16264, "
            "of text); take a smaller budget or more audio"
        )
    return said
