"""What a budget is reckoned with: the scaling law, and everything else that is assumed."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

from gpst_jax.config import ConfigError
from gpst_jax.parallel import chips

CHIP_HOURS, FLOPS = "chip-hours", "flops"


@dataclasses.dataclass(frozen=True)
class Law:
    """A compute-optimal allocation: N = N_0 (C / C_0)^a parameters, D = D_0 (C / C_0)^b tokens.

    The defaults are those of discrete audio in flat models (arXiv 2602.16687): the exponents of its
    section 5.2, fitted to 64 models from `lowest` to `highest` FLOPs, at 100 tokens per second of
    audio. It prints no coefficients. They are anchored at its models of 1.7 billion parameters and
    30 billion tokens for 3e20 FLOPs (its table 1); a hierarchical model of the same authors, 1.11
    billion parameters for 1.17e20 FLOPs, is 8 % smaller than that line.

    Attributes:
        flops: C_0.
        parameters: N_0.
        tokens: D_0.
        parameter_exponent: a.
        token_exponent: b.
        tokens_per_second: of audio, of the models that were fitted.
        lowest: FLOPs of the smallest budget that was fitted.
        highest: and of the largest.
    """

    flops: float = 3e20
    parameters: float = 1.7e9
    tokens: float = 30e9
    parameter_exponent: float = 0.367
    token_exponent: float = 0.579
    tokens_per_second: float = 100.0
    lowest: float = 3e18
    highest: float = 3e20

    def optimal_parameters(self, flops: float) -> float:
        """N for C FLOPs."""
        return self.parameters * (flops / self.flops) ** self.parameter_exponent

    def optimal_tokens(self, flops: float) -> float:
        """D for C FLOPs."""
        return self.tokens * (flops / self.flops) ** self.token_exponent


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What is assumed; every field can be given as `--assume=NAME=VALUE`.

    Attributes:
        chip: a name of the chip table (gpst_jax/parallel/chips.py).
        mfu: model FLOPs utilisation; None: 40 %, or four fifths of the ceiling of the compiled
            step on such a chip where that is lower.
        goodput: fraction of the time in which steps run, in (0, 1].
        days: the slice is the smallest that needs no more.
        hours: of audio at hand; None: not known.
        tokens_per_second: of audio; None: as the configuration's layout says.
        law_flops: C_0 of the law, and so on as in `Law`.
        law_parameters: N_0.
        law_tokens: D_0.
        law_parameter_exponent: a.
        law_token_exponent: b.
        law_tokens_per_second: of the models that were fitted.
    """

    chip: str = "v5p"
    mfu: float | None = None
    goodput: float = 0.95
    days: float = 14.0
    hours: float | None = None
    tokens_per_second: float | None = None
    law_flops: float = Law.flops
    law_parameters: float = Law.parameters
    law_tokens: float = Law.tokens
    law_parameter_exponent: float = Law.parameter_exponent
    law_token_exponent: float = Law.token_exponent
    law_tokens_per_second: float = Law.tokens_per_second

    def law(self) -> Law:
        """The law of these fields."""
        fields = {field.name: f"law_{field.name}" for field in dataclasses.fields(Law)}
        return Law(
            **{name: getattr(self, key) for name, key in fields.items() if hasattr(self, key)}
        )


def parse(text: str) -> tuple[float, str]:
    """A budget such as `5000`, `5000chip-hours` or `2e21flops`: the number and its unit.

    Raises:
        ConfigError: it is not a positive number with one of the two units.
    """
    match = re.fullmatch(r"\s*([\d.,_eE+-]*\d\.?)\s*([A-Za-z-]*)\s*", text)
    unit = (match[2].lower() or CHIP_HOURS) if match else ""
    try:
        number = float(match[1].replace(",", "")) if match else math.nan
    except ValueError:
        number = math.nan
    if unit not in (CHIP_HOURS, FLOPS) or not 0 < number < math.inf:
        raise ConfigError(
            f"--budget={text}: give a positive number of chip-hours, such as 5000, or of FLOPs, "
            "such as 2e21flops"
        )
    return number, unit


def assume(assignments: Sequence[str]) -> Inputs:
    """The inputs with the given `NAME=VALUE`.

    Raises:
        ConfigError: an unknown name or chip, or a value that is not a positive number, or more
            than 1 where it is a fraction.
    """
    known = {field.name for field in dataclasses.fields(Inputs)}
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, _, text = (part.strip() for part in assignment.partition("="))
        if name not in known:
            raise ConfigError(f"--assume={assignment}: choose from {', '.join(sorted(known))}")
        values[name] = text if name == "chip" else _positive(assignment, text)
        if name in ("mfu", "goodput") and values[name] > 1:
            raise ConfigError(f"--assume={assignment}: a fraction of 1, such as 0.4")
    inputs = Inputs(**values)
    find_chip(inputs.chip)
    return inputs


def _positive(assignment: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ConfigError(f"--assume={assignment}: give a positive number")
    return value


def find_chip(name: str) -> chips.Chip:
    """The chip of a name in the chip table.

    Raises:
        ConfigError: there is none.
    """
    names = {chip.name: chip for chip in chips.CHIPS}
    if name not in names:
        raise ConfigError(f"--assume=chip={name}: choose from {', '.join(names)}")
    return names[name]
