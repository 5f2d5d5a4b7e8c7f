"""Intervals and p-values of quantities that are functions of sums over items.

A corpus error rate is sum(errors) / sum(words), a mean sum(values) / n, a paired difference one
such ratio minus another. Items of one speaker are alike, so they are drawn together: a *unit* is a
speaker where items carry one, else an item. Three ways, all of them over units:

* many units: the percentile bootstrap, its tails moved outward as far as the quantile of Student's
  t with n - 1 degrees of freedom, times sqrt(n / (n - 1)), is from that of the normal distribution
  (the expanded percentiles of Hesterberg, arXiv 1411.5279). Plain percentiles are too narrow for
  few units: for normal values and ten of them they cover 90 % instead of 95.
* fewer than `FEWEST_RESAMPLED`: Student's t of the linearised unit sums. A resample of five
  speakers has only 126 outcomes and never leaves the range of the five.
* several runs (seeds) of one system: runs and speakers are crossed clusters (Cameron, Gelbach and
  Miller 2011), since every run renders the same items: the variance of the runs, plus that of the
  speakers, minus that of their cells, which both contain. Degrees of freedom by Satterthwaite.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special, stats

LEVEL = 0.95
FEWEST_RESAMPLED = 20  # units from which on the bootstrap is taken
_CELLS = 2_000_000  # entries of one block of the resampling matrix (16 MB)


class Quantity(NamedTuple):
    """A function of sums, homogeneous of degree 0.

    Attributes:
        of: sums (..., C) -> values (...).
        gradient: sums (C,) -> derivatives (C,).
    """

    of: Callable[[np.ndarray], np.ndarray]
    gradient: Callable[[np.ndarray], np.ndarray]


def _ratio(sums: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[..., 0] / sums[..., 1]


def _ratio_gradient(sums: np.ndarray) -> np.ndarray:
    return np.array([1 / sums[1], -sums[0] / sums[1] ** 2])


def _difference(sums: np.ndarray) -> np.ndarray:
    return _ratio(sums[..., :2]) - _ratio(sums[..., 2:])


def _difference_gradient(sums: np.ndarray) -> np.ndarray:
    return np.concatenate([_ratio_gradient(sums[:2]), -_ratio_gradient(sums[2:])])


RATIO = Quantity(_ratio, _ratio_gradient)  # columns: numerators, denominators
DIFFERENCE = Quantity(_difference, _difference_gradient)  # those of a system, those of its base


def grouped(columns: np.ndarray, labels: Sequence[str] | None) -> np.ndarray:
    """Sums of the columns (n, C) over the items of each label: (G, C); the columns without one."""
    if labels is None:
        return columns
    _, index = np.unique(np.asarray(labels), return_inverse=True)
    sums = np.zeros((index.max() + 1, columns.shape[1]))
    np.add.at(sums, index, columns)
    return sums


def interval(
    units: np.ndarray, quantity: Quantity, resamples: int, seed: int
) -> tuple[float | None, float | None, str]:
    """The 95 % interval of a quantity from the sums (G, C) of its units, and how it was made."""
    if len(units) < 2:
        return None, None, ""
    if len(units) < FEWEST_RESAMPLED:
        return *_student(units, quantity), "Student's t"
    samples = quantity.of(resampled_sums(units, resamples, seed))
    return *percentiles(samples, len(units)), "bootstrap"


def resampled_sums(units: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Sums of the columns (G, C) over bootstrap resamples of the units: (R, C).

    The counts of one resample are multinomial: G of G units, sampled with replacement.
    """
    sums = np.empty((resamples, units.shape[1]))
    for start, counts in resampled_counts(len(units), resamples, seed):
        sums[start : start + len(counts)] = counts @ units
    return sums


def resampled_counts(units: int, resamples: int, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks (first resample, how often each unit is drawn: int64 (B, G)) of all resamples."""
    rng = np.random.default_rng(seed)
    block = max(1, _CELLS // units)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        yield start, rng.multinomial(units, np.full(units, 1 / units), size=size)


def percentiles(samples: np.ndarray, units: int) -> tuple[float | None, float | None]:
    """The expanded percentiles of bootstrap values (R,) from a number of units."""
    samples = samples[np.isfinite(samples)]
    if not len(samples):
        return None, None
    quantile = stats.t.ppf((1 + LEVEL) / 2, units - 1) * np.sqrt(units / (units - 1))
    tail = 100 * float(special.ndtr(-quantile))
    low, high = np.percentile(samples, [tail, 100 - tail])
    return float(low), float(high)


def _student(units: np.ndarray, quantity: Quantity) -> tuple[float, float]:
    total = units.sum(axis=0)
    value = float(quantity.of(total))
    error = np.sqrt(_variance(units @ quantity.gradient(total)))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(units) - 1) * error)
    return value - half, value + half


def _variance(residuals: np.ndarray) -> float:
    """Variance of a sum of linearised units (G,), which are 0 on average."""
    return float(len(residuals) / (len(residuals) - 1) * (residuals**2).sum())


def swapped_p(units: np.ndarray, resamples: int, seed: int) -> tuple[float | None, str]:
    """Two-sided p-value of a difference (`DIFFERENCE`) by swapping the two systems in whole units.

    Where the systems are alike, which output came from which is arbitrary. All 2 ** G ways are
    taken where there are at most `resamples` of them, else as many random ones, and the actual one.

    Args:
        units: sums (G, 4) of numerators and denominators of a system and of its base.
        resamples: number of random swaps.
        seed: of the swaps.

    Returns:
        The p-value, None for fewer than two units, and how it was made.
    """
    count = len(units)
    if count < 2:
        return None, ""
    exact = 2.0**count <= max(resamples, 2)
    first, second = units[:, :2], units[:, 2:]
    # Sums in another order differ in their last digits.
    observed = abs(float(_difference(units.sum(axis=0)))) * (1 - 1e-9) - 1e-12
    as_large = 0
    for swaps in _swaps(count, None if exact else resamples, seed):
        moved = swaps @ (second - first)
        sums = np.concatenate([first.sum(axis=0) + moved, second.sum(axis=0) - moved], axis=1)
        as_large += int((np.abs(_difference(sums)) >= observed).sum())
    if exact:
        return as_large / 2**count, "exact permutation"
    return (as_large + 1) / (resamples + 1), "permutation"


def _swaps(units: int, number: int | None, seed: int) -> Iterator[np.ndarray]:
    """Blocks (B, G) of 0 and 1, whether each unit is swapped: so many random ones, or all ways."""
    if number is None:
        yield (np.arange(2**units)[:, None] >> np.arange(units)) & 1
        return
    rng = np.random.default_rng(seed)
    block = max(1, _CELLS // units)
    for start in range(0, number, block):
        yield rng.integers(0, 2, (min(block, number - start), units))


def crossed(
    columns: np.ndarray,
    quantity: Quantity,
    runs: Sequence[str],
    clusters: Sequence[str] | None,
    systems: Sequence[str],
) -> tuple[float, float, float]:
    """Standard error, degrees of freedom and p-value of a quantity over crossed runs and units.

    Args:
        columns: (n, C) of all items of all runs.
        quantity: a function of their sums.
        runs: of each item, its run; runs of one system differ in their seed.
        clusters: of each item, its unit: a speaker, or the id that items of several runs share.
        systems: of each item, its system; only systems with two runs or more tell how much runs
            differ.

    Returns:
        The standard error (0 where nothing varies), the degrees of freedom and the two-sided
        p-value of the hypothesis that the quantity is 0.

    Raises:
        ValueError: there are fewer than two units.
    """
    total = columns.sum(axis=0)
    residuals = (columns @ quantity.gradient(total))[:, None]
    labels = clusters if clusters is not None else [str(i) for i in range(len(columns))]
    by_unit = grouped(residuals, labels)[:, 0]
    if len(by_unit) < 2:
        raise ValueError("fewer than two units")
    units = _variance(by_unit)
    between, cells, weight = 0.0, 0.0, 0.0
    for system in dict.fromkeys(systems):
        of_system = [i for i, name in enumerate(systems) if name == system]
        names = [runs[i] for i in of_system]
        if len(set(names)) < 2:
            continue
        part = residuals[of_system]
        sums = grouped(part, names)[:, 0]
        variance = _variance(sums - sums.mean())
        keys = [f"{runs[i]}\0{labels[i]}" for i in of_system]
        between += variance
        cells += _variance(grouped(part, keys)[:, 0])
        weight += variance**2 / (len(sums) - 1)
    # The estimate by difference may come out below either part, and even negative.
    variance = max(units + between - cells, units, between)
    spread = weight + units**2 / (len(by_unit) - 1)
    freedom = (units + between) ** 2 / spread if spread else float(len(by_unit) - 1)
    error = float(np.sqrt(variance))
    value = abs(float(quantity.of(total)))
    p = 2 * float(stats.t.sf(value / error, freedom)) if error else float(value == 0)
    return error, float(freedom), p
