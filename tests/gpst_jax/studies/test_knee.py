"""The knee of a curve that is known."""

import numpy as np
import pytest

from gpst_jax.studies.knee import knee

PLACES = np.array([0.5, 1.0, 2.0, 3.0, 6.0])


def sums(curves):
    """Units (G, C) of denominator 10."""
    values = np.asarray(curves, float).T
    return np.stack([10 * values, np.full_like(values, 10)], axis=-1)


def test_it_is_where_the_share_of_the_rise_is_reached():
    curve = [0.5, 0.6, 0.7, 0.7, 0.7]
    value, (low, high) = knee(PLACES, sums([curve] * 6), 0.9)
    assert value == pytest.approx(1.8)  # 0.68, on the line from 0.6 at 1 to 0.7 at 2
    assert (low, high) == pytest.approx((1.8, 1.8))


def test_speakers_that_differ_widen_the_interval():
    early, late = [0.5, 0.7, 0.7, 0.7, 0.7], [0.5, 0.5, 0.5, 0.7, 0.7]
    value, (low, high) = knee(PLACES, sums([early, late] * 4), 0.9)
    assert 1 < low < value <= high < 3
    assert high - low > 0.5


def test_a_falling_curve_has_none():
    assert knee(PLACES, sums([[0.7, 0.6, 0.5, 0.5, 0.5]] * 4), 0.9) == (None, None)
