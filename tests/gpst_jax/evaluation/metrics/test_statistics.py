import numpy as np
import pytest

from gpst_jax.evaluation.metrics import statistics


def _coverage(draw, truth, trials=300):
    hits = 0
    for trial in range(trials):
        estimate = draw(np.random.default_rng(trial))
        hits += estimate.low <= truth <= estimate.high
    return hits / trials


def test_ratio_interval_covers_the_true_error_rate():
    def draw(rng):
        words = rng.integers(3, 8, 120)
        errors = rng.binomial(words, 0.12)
        return statistics.ratio(errors, words, resamples=400, seed=int(rng.integers(1 << 30)))

    assert 0.91 <= _coverage(draw, 0.12) <= 0.98


def test_clustered_interval_covers_what_the_item_interval_misses():
    def draw(rng, clustered):
        speakers = np.repeat(np.arange(30), 10)
        values = rng.normal(size=30)[speakers] + 0.3 * rng.normal(size=300)
        clusters = [str(s) for s in speakers] if clustered else None
        return statistics.mean(values, clusters=clusters, resamples=400)

    assert 0.88 <= _coverage(lambda rng: draw(rng, True), 0.0, 150) <= 0.99
    assert _coverage(lambda rng: draw(rng, False), 0.0, 60) < 0.7


def test_paired_interval_covers_and_is_narrower_than_the_parts():
    def draw(rng):
        words = np.full(100, 5)
        hard = rng.beta(0.5, 2.0, 100)  # difficulty shared by both conditions
        base = rng.binomial(words, hard * 0.5)
        errors = base + rng.binomial(words - base, 0.1)
        draw.width = statistics.ratio(errors, words, resamples=400)
        return statistics.paired_ratio_difference(errors, words, base, words, resamples=300)

    truth = 0.1 * (1 - 0.2 * 0.5)
    assert 0.90 <= _coverage(draw, truth, 200) <= 0.985
    estimate = draw(np.random.default_rng(0))
    assert estimate.high - estimate.low < 0.8 * (draw.width.high - draw.width.low)


def test_point_estimate_weighs_items_by_their_words():
    assert statistics.ratio([0, 10], [90, 10]).value == pytest.approx(0.1)
    assert statistics.paired_ratio_difference([1, 1], [2, 2], [0, 1], [3, 1]).value == 0.25


def test_intervals_depend_on_the_seed_only():
    values = np.random.default_rng(0).normal(size=50)
    assert statistics.mean(values, seed=1) == statistics.mean(values, seed=1)
    assert statistics.mean(values, seed=1) != statistics.mean(values, seed=2)


def test_blocks_of_resamples_do_not_lose_any(monkeypatch):
    monkeypatch.setattr(statistics, "_CELLS", 70)  # 7 resamples of 10 items at a time
    estimate = statistics.mean(np.arange(10.0), resamples=1000)
    # The standard error of the mean of 0..9 is 0.91.
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * 0.908, rel=0.1)


def test_no_interval_from_a_single_item_or_speaker():
    assert statistics.mean([1.0]).ci95 is None
    assert statistics.mean([1.0, 2.0], clusters=["a", "a"]).ci95 is None


def test_wilson_interval_has_width_at_the_ends():
    none, all_ = statistics.share(0, 20), statistics.share(20, 20)
    assert none.low == 0
    assert none.high == pytest.approx(0.161, abs=1e-3)
    assert all_.low == pytest.approx(1 - none.high)
    middle = statistics.share(8, 10)  # from the closed form by hand
    assert (middle.low, middle.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


@pytest.mark.parametrize(
    ("numerators", "denominators"), [([], []), ([1.0], [1.0, 2.0]), ([np.nan], [1.0])]
)
def test_bad_columns_are_refused(numerators, denominators):
    with pytest.raises(ValueError, match=r"items|columns"):
        statistics.ratio(numerators, denominators)


def test_impossible_share_is_refused():
    with pytest.raises(ValueError, match="proportion"):
        statistics.share(3, 2)
