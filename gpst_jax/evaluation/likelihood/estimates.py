"""Rows of estimates with 95 % intervals, clustered by speaker where enough of them are known."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpst_jax.evaluation.metrics import statistics

Row = dict[str, Any]


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made, see `statistics`."""

    resamples: int = statistics.RESAMPLES
    seed: int = 0


def ratio(
    numerators: Sequence[float],
    denominators: Sequence[float],
    speakers: Sequence[str],
    bootstrap: Bootstrap,
) -> Row:
    """The row of sum(numerators) / sum(denominators) over items of speakers."""
    if not len(numerators) or not sum(denominators):
        return statistics.not_available("nothing was scored")
    estimate = statistics.ratio(
        numerators,
        denominators,
        clusters=statistics.usable(speakers),
        resamples=bootstrap.resamples,
        seed=bootstrap.seed,
    )
    return statistics.row(estimate, len(numerators))


def proportion(
    values: Sequence[float], clusters: Sequence[str] | None, bootstrap: Bootstrap
) -> Row:
    """The row of a mean of values in [0, 1]: Wilson's interval where all are 0 or 1."""
    if not len(values):
        return statistics.not_available("nothing was scored")
    array = np.asarray(values, np.float64)
    if np.isin(array, (0.0, 1.0)).all():
        estimate = statistics.proportion([bool(value) for value in array], clusters=clusters)
    else:
        estimate = statistics.mean(
            array, clusters=clusters, resamples=bootstrap.resamples, seed=bootstrap.seed
        )
    if estimate.low is not None and estimate.high is not None:
        estimate = estimate._replace(low=max(estimate.low, 0.0), high=min(estimate.high, 1.0))
    return statistics.row(estimate, len(values))


def known_speakers(speakers: Sequence[str]) -> int | None:
    """How many speakers are known; None: none is."""
    return len(set(speakers) - set(statistics.UNKNOWN)) or None
