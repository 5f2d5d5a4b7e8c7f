"""Point estimates with 95 % confidence intervals, over speakers where items carry one.

Every quantity here is a ratio of sums over items: a corpus word error rate is sum(errors) /
sum(reference words), a mean is sum(values) / n. `resampling` has the intervals and p-values. Paired
differences take the items of both conditions together, which removes the item's own difficulty from
the interval. Rows say what an interval is over: an interval over items holds for other utterances
of the same speakers only.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from gpst_jax.evaluation.metrics import resampling
from gpst_jax.evaluation.metrics.resampling import DIFFERENCE, LEVEL, RATIO

RESAMPLES = 2000
# Below this many speakers an interval over speakers says next to nothing (for two, Student's t has
# one degree of freedom and a quantile of 12.7): then intervals are over items, and rows say so.
FEWEST_SPEAKERS = 5
UNKNOWN = ("", "unknown")  # labels of items without a speaker


class Estimate(NamedTuple):
    """A point estimate and the bounds of its 95 % interval; these are None below two units.

    Attributes:
        value: the estimate.
        low: lower bound.
        high: upper bound.
        over: what the interval is over: `items`, `speakers`, or `runs and speakers`.
        units: how many of these there are.
        method: how the interval was made.
        p: of a difference: two-sided p-value of no difference.
        p_method: how it was made.
    """

    value: float
    low: float | None
    high: float | None
    over: str = "items"
    units: int = 0
    method: str = ""
    p: float | None = None
    p_method: str = ""

    @property
    def ci95(self) -> list[float] | None:
        """The interval as a JSON value."""
        return None if self.low is None or self.high is None else [self.low, self.high]

    @property
    def interval(self) -> dict[str, Any]:
        """What the interval is over and how it was made, as a JSON value."""
        return {"over": self.over, "units": self.units, "method": self.method}


def usable(speakers: Sequence[str] | None) -> list[str] | None:
    """Speakers of items as clusters, or None where intervals are over items.

    They are where fewer than `FEWEST_SPEAKERS` speakers are known. Items of unknown speakers are
    clusters of their own.
    """
    if speakers is None or len({s for s in speakers if s not in UNKNOWN}) < FEWEST_SPEAKERS:
        return None
    return [f"\0{i}" if s in UNKNOWN else s for i, s in enumerate(speakers)]


def _checked(*columns: ArrayLike) -> np.ndarray:
    arrays = [np.asarray(column, np.float64) for column in columns]
    if any(array.ndim != 1 or len(array) != len(arrays[0]) for array in arrays):
        raise ValueError(f"columns of unequal shapes: {[array.shape for array in arrays]}")
    if not len(arrays[0]):
        raise ValueError("no items to estimate from")
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("items hold NaN or infinity")
    return np.stack(arrays, axis=1)


def _over(clusters: Sequence[str] | None) -> str:
    return "items" if clusters is None else "speakers"


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
        clusters: a label for each item, for example its speaker (see `usable`). Clusters are then
            the units instead of items: the interval covers other speakers, not only other
            utterances of these.
        resamples: number of bootstrap resamples.
        seed: of the resampling.

    Raises:
        ValueError: no items, unequal lengths, or values that are not finite.
    """
    columns = _checked(numerators, denominators)
    units = resampling.grouped(columns, clusters)
    low, high, method = resampling.interval(units, RATIO, resamples, seed)
    if low is not None and (columns >= 0).all():
        low = max(low, 0.0)  # Student's t does not know that rates are not negative
    value = float(RATIO.of(columns.sum(axis=0)))
    return Estimate(value, low, high, _over(clusters), len(units), method)


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


def median(
    values: ArrayLike,
    *,
    clusters: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Estimates the median of values (n,) by the bootstrap; arguments as in `ratio`."""
    column = _checked(values)[:, 0]
    order = np.argsort(column, kind="stable")
    labels = [str(i) for i in range(len(column))] if clusters is None else clusters
    _, index = np.unique(np.asarray(labels), return_inverse=True)
    units = int(index.max()) + 1
    value = float(np.median(column))
    if units < 2:
        return Estimate(value, None, None, _over(clusters), units)
    medians = np.empty(resamples)
    for start, counts in resampling.resampled_counts(units, resamples, seed):
        reached = counts[:, index[order]].cumsum(axis=1)
        half = reached[:, -1:] / 2
        lower = column[order[(reached >= half).argmax(axis=1)]]
        upper = column[order[(reached > half).argmax(axis=1)]]
        medians[start : start + len(counts)] = (lower + upper) / 2
    low, high = resampling.percentiles(medians, units)
    return Estimate(value, low, high, _over(clusters), units, "bootstrap")


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

    All four columns are (n,); the other arguments are as in `ratio`. The p-value is of swapping the
    two in whole units (see `resampling.swapped_p`).
    """
    columns = _checked(numerators, denominators, base_numerators, base_denominators)
    units = resampling.grouped(columns, clusters)
    low, high, method = resampling.interval(units, DIFFERENCE, resamples, seed)
    p, p_method = resampling.swapped_p(units, resamples, seed)
    value = float(DIFFERENCE.of(columns.sum(axis=0)))
    return Estimate(value, low, high, _over(clusters), len(units), method, p, p_method)


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
    ones = np.ones(len(columns))
    return paired_ratio_difference(
        columns[:, 0], ones, columns[:, 1], ones, clusters=clusters, resamples=resamples, seed=seed
    )


def share(successes: int, n: int) -> Estimate:
    """A proportion with Wilson's score interval, which has width at 0 and at 1.

    (The bootstrap of identical items has none.)

    Raises:
        ValueError: n is 0, or successes are not among 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} is no proportion")
    low, high = _wilson(successes / n, n, stats.norm.ppf((1 + LEVEL) / 2))
    return Estimate(successes / n, low, high, "items", n, "Wilson")


def _wilson(p: float, n: float, quantile: float) -> tuple[float, float]:
    centre = (p + quantile**2 / (2 * n)) / (1 + quantile**2 / n)
    half = quantile * np.sqrt(p * (1 - p) / n + quantile**2 / (4 * n**2)) / (1 + quantile**2 / n)
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def proportion(hits: Sequence[bool], *, clusters: Sequence[str] | None = None) -> Estimate:
    """A proportion of items (n,), with Wilson's interval of the effective number of items.

    Items of one cluster are alike: they count for n / (the variance of the proportion over clusters
    over that of independent items), at most for n, and the quantile is Student's. (Korn and
    Graubard 1998 do so with another interval.)

    Raises:
        ValueError: there are no items.
    """
    n, successes = len(hits), int(np.sum(hits))
    if clusters is None or n < 1 or len(set(clusters)) < 2:
        return share(successes, n)
    p = successes / n
    columns = np.stack([np.asarray(hits, np.float64), np.ones(n)], axis=1)
    units = resampling.grouped(columns, clusters)
    residuals = (units[:, 0] - p * units[:, 1]) / n
    variance = len(units) / (len(units) - 1) * float((residuals**2).sum())
    effective = n if not 0 < p < 1 else min(n, p * (1 - p) / max(variance, 1e-12))
    quantile = float(stats.t.ppf((1 + LEVEL) / 2, len(units) - 1))
    low, high = _wilson(p, effective, quantile)
    return Estimate(p, low, high, "speakers", len(units), "Wilson, effective number of items")


def over_runs(
    tables: Sequence[Sequence[tuple[str, str, float, float]]],
    base: Sequence[Sequence[tuple[str, str, float, float]]] = (),
) -> Estimate:
    """A ratio over several runs of one system, or minus that of the runs of its base.

    Runs (seeds) are a level of their own: the interval covers other seeds and other speakers (see
    `resampling.crossed`). A system with one run tells nothing about other seeds, and its interval
    covers none.

    Args:
        tables: of each run, its items as (id, cluster, numerator, denominator); the cluster is the
            speaker, or the id itself.
        base: likewise of the other system; none for the ratio itself.

    Raises:
        ValueError: there are no items, or items of fewer than two clusters.
    """
    rows, runs, clusters, systems = [], [], [], []
    for system, group in enumerate((tables, base)):
        for run, table in enumerate(group):
            for _, cluster, numerator, denominator in table:
                pair = [numerator, denominator]
                rows.append([0.0, 0.0, *pair] if system else [*pair, 0.0, 0.0])
                runs.append(f"{system}/{run}")
                clusters.append(cluster)
                systems.append(str(system))
    columns = _checked(*zip(*rows, strict=True)) if rows else _checked([])
    quantity, columns = (DIFFERENCE, columns) if base else (RATIO, columns[:, :2])
    error, freedom, p = resampling.crossed(columns, quantity, runs, clusters, systems)
    value = float(quantity.of(columns.sum(axis=0)))
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    ids = {id_ for table in (*tables, *base) for id_, *_ in table}
    level = "items" if set(clusters) == ids else "speakers"
    made = Estimate(
        value, value - half, value + half, f"runs and {level}", len(set(clusters)), "crossed t"
    )
    return made._replace(p=p, p_method="crossed t") if base else made


def row(estimate: Estimate, n: int) -> dict[str, Any]:
    """The row of an estimate over n items; with the p-value where it has one."""
    made: dict[str, Any] = {
        "value": estimate.value,
        "ci95": estimate.ci95,
        "n": n,
        "interval": estimate.interval,
    }
    if estimate.p is not None:
        made |= {"p": estimate.p, "p_method": estimate.p_method}
    return made


def not_available(reason: str) -> dict[str, Any]:
    """A row without a number, and the reason."""
    return {"value": None, "ci95": None, "n": 0, "reason": f"not available: {reason}"}
