"""Intervals over seeds and speakers agree with closed forms, and cover."""

import numpy as np
import pytest
from scipy import stats
from toy_study import score

from gpst_jax.studies import estimates


def means(values, over="items"):
    """Scores of items with these values and the denominator 1."""
    return score({str(i): (float(value), 1.0) for i, value in enumerate(values)}, over)


def test_one_seed_is_the_paired_t_interval_over_items():
    random = np.random.default_rng(1)
    a, b = random.normal(size=30), random.normal(0.3, 1, 30)
    found, seeds = estimates.difference({0: means(a)}, {0: means(b)})
    expected = stats.ttest_rel(a, b)
    low, high = expected.confidence_interval(0.95)
    assert seeds == 1
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.p == pytest.approx(expected.pvalue)
    assert found.over == "items"


def test_seeds_whose_items_do_not_differ_are_the_paired_t_interval_over_seeds():
    a, b = np.array([1.0, 1.4, 1.1]), np.array([0.5, 1.2, 0.2])
    system = {seed: means([value] * 5) for seed, value in enumerate(a)}
    base = {seed: means([value] * 5) for seed, value in enumerate(b)}
    found, seeds = estimates.difference(system, base)
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert seeds == 3
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.over == "seeds and items"


def test_figures_without_items_have_the_t_interval_over_seeds():
    values = [2.0, 3.0, 7.0]
    scores = {s: {"value": v, "ci95": None, "n": 1} for s, v in enumerate(values)}
    found = estimates.of_cell(scores)
    half = stats.t.ppf(0.975, 2) * stats.sem(values)
    assert (found.low, found.high) == pytest.approx((4 - half, 4 + half))


def test_what_all_cells_share_cancels_in_a_difference():
    random = np.random.default_rng(2)
    items, seeds = random.normal(0, 5, 12), random.normal(0, 5, 3)
    base = {s: means(100 + items + seeds[s]) for s in range(3)}
    system = {s: means(101 + items + seeds[s]) for s in range(3)}
    found, _ = estimates.difference(system, base)
    assert found.value == pytest.approx(1.0)
    assert found.high - found.low < 1e-9
    assert estimates.of_cell(base).high - estimates.of_cell(base).low > 1


def test_unpaired_samples_are_independent():
    random = np.random.default_rng(3)
    a, b = random.normal(size=50), random.normal(size=50)
    found, _ = estimates.difference({0: means(a, "samples")}, {0: means(b, "samples")})
    error = np.sqrt(a.var(ddof=1) / 50 + b.var(ddof=1) / 50)
    assert (found.high - found.low) / 2 == pytest.approx(2 * error, rel=0.05)


def test_differences_use_what_both_cells_have():
    first, second = {0: score({"a": (1, 2), "b": (2, 2)}), 1: means([1])}, {0: score({"c": (1, 2)})}
    assert estimates.difference(first, second) == (None, 0)
    assert estimates.difference(first, {7: means([1])}) == (None, 0)
    assert estimates.difference({0: {"value": None}}, {0: means([1])}) == (None, 0)
    assert estimates.of_cell({0: {"value": None}}) is None


def test_intervals_cover_other_seeds_and_speakers():
    random = np.random.default_rng(4)
    covered = 0
    for _ in range(300):
        shift = random.normal(0, 0.5, 5)
        effect = random.normal(0, 1, 10)
        gap = shift[:, None] + effect[None] + random.normal(0, 1, (5, 10))
        system = {s: score({str(i): (gap[s, i], 1.0) for i in range(10)}) for s in range(5)}
        base = {s: score({str(i): (0.0, 1.0) for i in range(10)}) for s in range(5)}
        found, _ = estimates.difference(system, base)
        covered += found.low <= 0 <= found.high
    assert 0.92 <= covered / 300 <= 0.99
