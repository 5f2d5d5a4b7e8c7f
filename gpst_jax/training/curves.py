"""Expected learning curves: losses of a run at a few steps, with which others are compared.

A curve is a JSON file: `steps` has, for each step, the losses by name as they stand in
`metrics.jsonl` (loss, the negative log-likelihood of every stream and codebook, and bits per
second), `tolerance` the relative difference that is no reason for a look. Training losses are means
over `train.log_every` steps, so a run is compared with a curve of the same configuration. GPST's
also say how many bits per second of audio each stream's losses are; these are not compared.
"""

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.runtime.errors import UserError

_LOSS = re.compile(r"(train|eval)/(loss|nll\w*|bits_per_second)")
_POINTS = 8  # steps of a curve where none are named


@dataclasses.dataclass(frozen=True)
class Deviation:
    """A loss that is not as expected.

    Attributes:
        step: where.
        name: of the loss.
        expected: by the curve.
        found: in the run; None: it has no such loss at this step.
    """

    step: int
    name: str
    expected: float
    found: float | None

    def __str__(self) -> str:
        """One line."""
        found = "missing" if self.found is None else f"{self.found:.4f}"
        return f"{self.name} at step {self.step} is {found}, expected {self.expected:.4f}"


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How a run compares with a curve.

    Attributes:
        tolerance: relative.
        compared: losses within reach of the run, as many as were compared.
        last_step: the last step that was compared; None: the run has reached none.
        deviations: those that are off.
    """

    tolerance: float
    compared: int
    last_step: int | None
    deviations: list[Deviation]


def make_curve(
    lines: Sequence[Mapping[str, Any]],
    steps: Sequence[int],
    tolerance: float,
    rates: Mapping[str, float],
) -> dict[str, Any]:
    """A curve from the metrics of a run.

    Args:
        lines: of `jsonl.read_metrics`.
        steps: where; empty: eight, evenly over the run.
        tolerance: stored with it.
        rates: of `prediction_rates`, for bits per second.

    Raises:
        UserError: the run has no losses at one of the steps.
    """
    losses = _losses(lines)
    if not losses:
        raise UserError("the run has no losses yet: train it first")
    known = sorted(losses)
    if not steps:
        places = {round((point + 1) * len(known) / _POINTS) - 1 for point in range(_POINTS)}
        steps = [known[max(place, 0)] for place in sorted(places)]
    for step in steps:
        if step not in losses:
            nearest = min(known, key=lambda other: abs(other - step))
            raise UserError(f"no losses at step {step}: the nearest logged one is {nearest}")
    return {
        "tolerance": tolerance,
        "steps": {
            str(step): {name: round(value, 4) for name, value in sorted(losses[step].items())}
            | _bits_per_second(losses[step], rates)
            for step in sorted(set(steps))
        },
    }


def prediction_rates(record: Mapping[str, Any]) -> dict[str, float]:
    """Tokens that the streams of a GPST predict per second of audio; empty for other models.

    Without special tokens, which the `bits_per_second` that a run logs counts too. De-duplicated
    units have no fixed rate and are left out.

    Args:
        record: of a checkpoint; empty: there is none.
    """
    dataset = record.get("dataset", {})
    if record.get("family") != "GPSTObjective" or "codec" not in dataset:
        return {}
    rates = {"acoustic": dataset["codec"]["frame_rate"] * dataset["codec"]["num_codebooks"]}
    if not record["config"]["data"]["deduplicate"]:
        rates["semantic"] = dataset["semantic"]["frame_rate"]
    return rates


def _bits_per_second(losses: Mapping[str, float], rates: Mapping[str, float]) -> dict[str, float]:
    """`SPLIT/bits_per_second_STREAM`."""
    found: dict[str, float] = {}
    for split in ("eval", "train"):
        bits = {
            stream: rate * losses[f"{split}/nll_{stream}"] / math.log(2)
            for stream, rate in sorted(rates.items())
            if f"{split}/nll_{stream}" in losses
        }
        found |= {f"{split}/bits_per_second_{name}": round(bits[name], 1) for name in bits}
    return found


def compare(curve: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> Agreement:
    """Compares a run, finished or not, with a curve.

    A step counts as soon as the run has reached it.

    Args:
        curve: of `make_curve` or `read_curve`.
        lines: of `jsonl.read_metrics`.
    """
    losses = _losses(lines)
    reached = max(losses, default=0)
    compared, last, deviations = 0, None, []
    for text, expected in curve["steps"].items():
        step = int(text)
        if step > reached:
            continue
        last = step if last is None else max(last, step)
        for name, value in expected.items():
            if not _LOSS.fullmatch(name):
                continue
            found = losses.get(step, {}).get(name)
            if found is None and step == reached and name.startswith("eval/"):
                continue  # the evaluation after the step may be going on
            compared += 1
            if found is None or abs(found - value) > curve["tolerance"] * abs(value):
                deviations.append(Deviation(step, name, value, found))
    return Agreement(curve["tolerance"], compared, last, deviations)


def read_curve(path: str | Path) -> dict[str, Any]:
    """Reads the file of a curve.

    Raises:
        UserError: it is missing, or no such file.
    """
    try:
        curve = json.loads(Path(path).read_text(encoding="utf-8"))
        good = curve["tolerance"] >= 0 and all(
            int(step) > 0 and all(isinstance(value, float | int) for value in losses.values())
            for step, losses in curve["steps"].items()
        )
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError):
        good = False
    if not good:
        raise UserError(f"{path}: not an expected curve, as experiments.status --write_curve makes")
    return curve


def format_agreement(agreement: Agreement) -> list[str]:
    """The comparison for a terminal: a line, and one for each deviation."""
    if agreement.last_step is None:
        return ["no step of it is reached yet"]
    within = f"within {agreement.tolerance:.0%} up to step {agreement.last_step}"
    if not agreement.deviations:
        return [f"on it: {agreement.compared} losses {within}"]
    count = len(agreement.deviations)
    return [
        f"off it: {count} of {agreement.compared} losses are not {within}",
        *map(str, agreement.deviations),
    ]


def _losses(lines: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    """Losses by step and name."""
    found: dict[int, dict[str, float]] = {}
    for line in lines:
        losses = {
            name: value
            for name, value in line.items()
            if _LOSS.fullmatch(name) and value is not None
        }
        if losses:
            found.setdefault(line["step"], {}).update(losses)
    return found
