"""The exponent of curves whose best size is known."""

import numpy as np
import pytest

from gpst_jax.studies.isoflop import best_size, fit

SIZES = np.array([1e6, 2e6, 4e6, 8e6, 16e6])


def curve(best, noise=0.0, speakers=10, seeds=2):
    """Losses whose parabola is lowest at a size: sizes and sums (seeds, speakers, 2) of each."""
    random = np.random.default_rng(int(best))
    losses = 100 + 3 * np.log(SIZES / best) ** 2
    sums = []
    for loss in losses:
        values = loss + noise * random.normal(size=(seeds, speakers))
        sums.append(np.stack([10 * values, np.full_like(values, 10)], axis=-1))
    return SIZES, sums


def test_the_best_size_is_the_lowest_point_inside_the_sizes():
    _, sums = curve(3e6)
    losses = np.array([of[..., 0].sum() / of[..., 1].sum() for of in sums])
    assert np.exp(best_size(np.log(SIZES), losses)) == pytest.approx(3e6)
    assert best_size(np.log(SIZES), -losses) is None
    _, sums = curve(9e7)
    losses = np.array([of[..., 0].sum() / of[..., 1].sum() for of in sums])
    assert best_size(np.log(SIZES), losses) is None


def test_the_exponent_of_a_power_law_is_found():
    budgets = [1e12, 4e12, 16e12]
    curves = [curve(2e6 * (flops / 1e12) ** 0.5) for flops in budgets]
    exponent, (low, high) = fit(budgets, curves)
    assert exponent == pytest.approx(0.5)
    assert (low, high) == pytest.approx((0.5, 0.5))


def test_noise_widens_the_interval_which_holds_the_truth():
    budgets = [1e12, 4e12, 16e12]
    curves = [curve(2e6 * (flops / 1e12) ** 0.5, noise=2.0) for flops in budgets]
    exponent, (low, high) = fit(budgets, curves)
    assert low < exponent < high
    assert low < 0.5 < high
    assert fit(budgets[:1], curves[:1]) == (None, None)
