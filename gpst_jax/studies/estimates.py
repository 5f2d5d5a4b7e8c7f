"""Intervals over seeds and speakers, from the sums that records keep.

Seeds are a level of their own. All seeds of a cell render the same items, so seeds and speakers are
crossed (`gpst_jax.evaluation.metrics.resampling.crossed`): the variance of the seeds, plus that of
the speakers, minus that of their cells. A difference is paired in both: seed with seed, since equal
seeds read the data in equal order, and speaker with speaker. With one seed the interval covers
other speakers (or items) and no other seeds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from gpst_jax.evaluation.metrics import resampling
from gpst_jax.evaluation.metrics.statistics import Estimate
from gpst_jax.studies.figures import UNPAIRED

Scores = Mapping[int, Mapping[str, Any]]  # a figure of a cell by seed, as records have it
_Row = tuple[str, str, str, float, float]  # system, seed, unit, numerator, denominator
_SYSTEM, _BASE = "system", "base"


def of_cell(scores: Scores) -> Estimate | None:
    """A figure of one cell over its seeds; None where no seed has a value.

    With one seed the interval is that of its evaluation. Of figures without items (such as the
    number of parameters) it is that of the mean over seeds.
    """
    usable = {seed: score for seed, score in scores.items() if score.get("value") is not None}
    if not usable:
        return None
    if len(usable) == 1:
        (score,) = usable.values()
        low, high = score.get("ci95") or (None, None)
        return Estimate(score["value"], low, high, score.get("over", ""), score.get("n") or 0)
    rows = [row for seed, score in usable.items() for row in _rows(_SYSTEM, seed, score)]
    if any("units" not in score for score in usable.values()):
        return _over_seeds([score["value"] for score in usable.values()])
    made = _crossed(rows, resampling.RATIO)
    if made.low is not None and made.high is not None and all(row[3] >= 0 for row in rows):
        made = made._replace(low=max(made.low, 0.0))  # Student's t does not know rates
    return made


def difference(scores: Scores, base: Scores) -> tuple[Estimate | None, int]:
    """A cell minus its base, over the seeds that both have; and how many these are.

    The estimate is None where they have no seed, or no unit, in common.
    """
    seeds = [
        seed
        for seed in sorted(scores.keys() & base.keys())
        if all(side[seed].get("value") is not None for side in (scores, base))
    ]
    if not seeds:
        return None, 0
    pairs = [(scores[seed], base[seed]) for seed in seeds]
    if any("units" not in score for pair in pairs for score in pair):
        gaps = [first["value"] - second["value"] for first, second in pairs]
        return _over_seeds(gaps), len(seeds)
    rows: list[_Row] = []
    for seed, (first, second) in zip(seeds, pairs, strict=True):
        of_seed = [*_rows(_SYSTEM, seed, first), *_rows(_BASE, seed, second)]
        rows += of_seed if _unpaired(first) else _shared(of_seed)
    if {system for system, *_ in rows} != {_SYSTEM, _BASE}:
        return None, 0
    return _crossed(rows, resampling.DIFFERENCE), len(seeds)


def _unpaired(score: Mapping[str, Any]) -> bool:
    return bool(score["units"]["over"] == UNPAIRED)


def _rows(system: str, seed: int, score: Mapping[str, Any]) -> list[_Row]:
    if "units" not in score:
        return []
    # What is not paired has a label of its own in every run.
    own = f"{system} {seed} " if _unpaired(score) else ""
    over = score["units"]["over"]
    sums = score["units"]["sums"].items()
    return [(system, str(seed), f"{over} {own}{name}", *pair) for name, pair in sums]


def _shared(rows: Sequence[_Row]) -> list[_Row]:
    """The rows of the units that both systems have."""
    names = [{row[2] for row in rows if row[0] == system} for system in (_SYSTEM, _BASE)]
    both = names[0] & names[1]
    return [row for row in rows if row[2] in both]


def _crossed(rows: Sequence[_Row], quantity: resampling.Quantity) -> Estimate:
    """The estimate over crossed seeds and units.

    All rows are of one system as far as seeds go: seeds are paired, so a seed's two cells are one.
    """
    columns = np.array(
        [
            [numerator, denominator, 0, 0] if system == _SYSTEM else [0, 0, numerator, denominator]
            for system, _, _, numerator, denominator in rows
        ],
        np.float64,
    )
    if quantity is resampling.RATIO:
        columns = columns[:, :2]
    value = float(quantity.of(columns.sum(axis=0)))
    seeds, units = [row[1] for row in rows], [row[2] for row in rows]
    count = len(set(units))
    level = units[0].split(" ")[0]
    over = f"seeds and {level}" if len(set(seeds)) > 1 else level
    if count < 2:
        return Estimate(value, None, None, over, count)
    error, freedom, p = resampling.crossed(columns, quantity, seeds, units, ["one"] * len(rows))
    half = float(stats.t.ppf((1 + resampling.LEVEL) / 2, freedom)) * error
    paired = quantity is resampling.DIFFERENCE
    return Estimate(
        value,
        value - half,
        value + half,
        over,
        count,
        "crossed t",
        p if paired else None,
        "crossed t" if paired else "",
    )


def _over_seeds(values: Sequence[float]) -> Estimate:
    """The mean over seeds with Student's t."""
    array = np.asarray(values, np.float64)
    mean = float(array.mean())
    if len(array) < 2:
        return Estimate(mean, None, None, "seeds", len(array))
    error = float(array.std(ddof=1) / np.sqrt(len(array)))
    half = float(stats.t.ppf((1 + resampling.LEVEL) / 2, len(array) - 1)) * error
    return Estimate(mean, mean - half, mean + half, "seeds", len(array), "Student's t")


def seeds_of(scores: Scores) -> int:
    """How many seeds have a value."""
    return sum(score.get("value") is not None for score in scores.values())
