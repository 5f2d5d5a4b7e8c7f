"""Point estimates with 95 % confidence intervals, by the percentile bootstrap over items.

Every quantity here is a ratio of sums over items: a corpus word error rate is sum(errors) /
sum(reference words), a mean is sum(values) / n. A resample is a vector of item counts, so all
resamples are one matrix product. Paired differences resample the items of both conditions
together, which removes the item's own difficulty from the interval.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 2000
LEVEL = 0.95
_Z = 1.959963984540054  # normal quantile of the 95 % level
_CELLS = 2_000_000  # entries of one block of the resampling matrix (16 MB)


class Estimate(NamedTuple):
    """A point estimate and the bounds of its 95 % interval; these are None below two items."""

    value: float
    low: float | None
    high: float | None

    @property
    def ci95(self) -> list[float] | None:
        """The interval as a JSON value."""
        return None if self.low is None or self.high is None else [self.low, self.high]


def _resampled_sums(
    columns: np.ndarray, clusters: Sequence[str] | None, resamples: int, seed: int
) -> np.ndarray:
    """Sums of the columns (n, C) over bootstrap resamples of the rows or of the clusters: (R, C).

    The counts of one resample are multinomial: n of n items, sampled with replacement.
    """
    if clusters is not None:
        _, index = np.unique(np.asarray(clusters), return_inverse=True)
        grouped = np.zeros((index.max() + 1, columns.shape[1]))
        np.add.at(grouped, index, columns)
        columns = grouped
    n = len(columns)
    rng = np.random.default_rng(seed)
    sums = np.empty((resamples, columns.shape[1]))
    block = max(1, _CELLS // n)
    for start in range(0, resamples, block):
        stop = min(start + block, resamples)
        counts = rng.multinomial(n, np.full(n, 1 / n), size=stop - start)
        sums[start:stop] = counts @ columns
    return sums


def _percentiles(samples: np.ndarray) -> tuple[float | None, float | None]:
    samples = samples[np.isfinite(samples)]
    if not len(samples):
        return None, None
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(samples, [tail, 100 - tail])
    return float(low), float(high)


def _divide(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return numerators / denominators


def _checked(*columns: ArrayLike) -> np.ndarray:
    arrays = [np.asarray(column, np.float64) for column in columns]
    if any(array.ndim != 1 or len(array) != len(arrays[0]) for array in arrays):
        raise ValueError(f"columns of unequal shapes: {[array.shape for array in arrays]}")
    if not len(arrays[0]):
        raise ValueError("no items to estimate from")
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("items hold NaN or infinity")
    return np.stack(arrays, axis=1)


def ratio(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    clusters: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Estimates sum(numerators) / sum(denominators) over items.

    Args:
        numerators: (n,) for example errors of each utterance.
        denominators: (n,) for example reference words of each utterance; their sum is positive.
        clusters: a label for each item, for example its speaker. Clusters are then resampled
            instead of items: the interval covers other speakers, not only other utterances of
            these. With fewer than about ten clusters such an interval is itself unreliable.
        resamples: number of bootstrap resamples.
        seed: of the resampling.

    Raises:
        ValueError: no items, unequal lengths, or values that are not finite.
    """
    columns = _checked(numerators, denominators)
    total = columns.sum(axis=0)
    units = len(columns) if clusters is None else len(set(clusters))
    if units < 2:
        return Estimate(float(total[0] / total[1]), None, None)
    sums = _resampled_sums(columns, clusters, resamples, seed)
    return Estimate(float(total[0] / total[1]), *_percentiles(_divide(sums[:, 0], sums[:, 1])))


def mean(
    values: ArrayLike,
    *,
    clusters: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Estimates the mean of values (n,); arguments as in `ratio`."""
    values = np.asarray(values, np.float64)
    return ratio(values, np.ones_like(values), clusters=clusters, resamples=resamples, seed=seed)


def paired_ratio_difference(
    numerators: ArrayLike,
    denominators: ArrayLike,
    base_numerators: ArrayLike,
    base_denominators: ArrayLike,
    *,
    clusters: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Estimates the ratio of a condition minus that of its base, on the same items in this order.

    All four columns are (n,); the other arguments are as in `ratio`.
    """
    columns = _checked(numerators, denominators, base_numerators, base_denominators)
    total = columns.sum(axis=0)
    value = float(total[0] / total[1] - total[2] / total[3])
    units = len(columns) if clusters is None else len(set(clusters))
    if units < 2:
        return Estimate(value, None, None)
    sums = _resampled_sums(columns, clusters, resamples, seed)
    return Estimate(
        value, *_percentiles(_divide(sums[:, 0], sums[:, 1]) - _divide(sums[:, 2], sums[:, 3]))
    )


def paired_mean_difference(
    values: ArrayLike,
    base: ArrayLike,
    *,
    clusters: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Estimates the mean of values - base over the same items, both (n,)."""
    columns = _checked(values, base)
    return mean(columns[:, 0] - columns[:, 1], clusters=clusters, resamples=resamples, seed=seed)


def share(successes: int, n: int) -> Estimate:
    """A proportion with Wilson's score interval, which has width at 0 and at 1.

    (The bootstrap of identical items has none.)

    Raises:
        ValueError: n is 0, or successes are not among 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} is no proportion")
    p = successes / n
    centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * np.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    return Estimate(p, float(max(0.0, centre - half)), float(min(1.0, centre + half)))


def row(estimate: Estimate, n: int) -> dict[str, Any]:
    """The row of an estimate over n items."""
    return {"value": estimate.value, "ci95": estimate.ci95, "n": n}


def not_available(reason: str) -> dict[str, Any]:
    """A row without a number, and the reason."""
    return {"value": None, "ci95": None, "n": 0, "reason": f"not available: {reason}"}
