"""Estimates: worked by hand, against scipy and closed forms, and their coverage in simulation."""

import numpy as np
import pytest
from scipy import stats

from gpst_jax.evaluation.metrics import resampling, statistics


def _coverage(draw, truth, trials=1000):
    hits = 0
    for trial in range(trials):
        estimate = draw(np.random.default_rng(trial))
        hits += estimate.low <= truth <= estimate.high
    return hits / trials


def _speakers(count, items):
    return [f"s{number}" for number in range(count) for _ in range(items)]


# Coverage. 1000 trials tell 95 % to 0.7 points.


def test_interval_of_a_corpus_error_rate_over_items_covers_the_truth():
    def draw(rng):
        words = rng.integers(3, 8, 120)
        errors = rng.binomial(words, 0.12)
        return statistics.ratio(errors, words, resamples=400, seed=int(rng.integers(1 << 30)))

    assert 0.93 <= _coverage(draw, 0.12) <= 0.97


@pytest.mark.parametrize("count", [5, 10, 30])
def test_interval_of_a_mean_over_speakers_covers_what_that_over_items_misses(count):
    def draw(rng, clustered=True):
        values = rng.normal(size=count).repeat(10) + 0.3 * rng.normal(size=10 * count)
        clusters = _speakers(count, 10) if clustered else None
        return statistics.mean(values, clusters=clusters, resamples=400)

    assert 0.93 <= _coverage(draw, 0.0) <= 0.97
    assert _coverage(lambda rng: draw(rng, False), 0.0, 100) < 0.7


@pytest.mark.parametrize("count", [10, 40])
def test_interval_of_a_corpus_error_rate_over_unequal_speakers_covers_the_truth(count):
    def draw(rng):
        rates = rng.beta(4, 28, count)  # a speaker's own error rate, 12.5 % on average
        speaker = np.concatenate([np.arange(count), rng.integers(0, count, 9 * count)])
        words = rng.integers(5, 15, len(speaker))
        errors = rng.binomial(words, rates[speaker])
        clusters = [str(s) for s in speaker]
        return statistics.ratio(errors, words, clusters=clusters, resamples=400)

    assert 0.93 <= _coverage(draw, 4 / 32) <= 0.97


def test_paired_interval_over_speakers_covers_and_its_p_value_is_uniform():
    def draw(rng, shift=0.0):
        base = rng.normal(size=12).repeat(6) + rng.normal(size=72)
        change = shift + rng.normal(size=12).repeat(6) + 0.3 * rng.normal(size=72)
        clusters = _speakers(12, 6)
        return statistics.paired_mean_difference(base + change, base, clusters=clusters)

    assert 0.93 <= _coverage(lambda rng: draw(rng, 0.5), 0.5, 600) <= 0.97
    p = np.array([draw(np.random.default_rng(trial)).p for trial in range(300)])
    assert 0.02 <= (p <= 0.05).mean() <= 0.08
    assert 0.42 <= (p <= 0.5).mean() <= 0.58


def test_pairing_makes_the_interval_narrower_than_the_parts():
    rng = np.random.default_rng(0)
    words = np.full(100, 5)
    hard = rng.beta(0.5, 2.0, 100)  # difficulty shared by both conditions
    base = rng.binomial(words, hard * 0.5)
    errors = base + rng.binomial(words - base, 0.1)
    paired = statistics.paired_ratio_difference(errors, words, base, words)
    alone = statistics.ratio(errors, words)
    assert paired.high - paired.low < 0.8 * (alone.high - alone.low)


def _table(effects, rng, speakers, items):
    """Items of one run, whose speakers are the same in every run."""
    return [
        (f"{s}-{i}", f"s{s}", float(effects + speakers[s] + items[s, i] + 0.3 * rng.normal()), 1.0)
        for s in range(len(speakers))
        for i in range(items.shape[1])
    ]


@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0])
def test_interval_over_runs_and_speakers_covers_the_truth(spread):
    def draw(rng):
        speakers, items = rng.normal(size=12), rng.normal(size=(12, 4))
        runs = [_table(spread * rng.normal(), rng, speakers, items) for _ in range(5)]
        return statistics.over_runs(runs)

    assert 0.93 <= _coverage(draw, 0.0, 600) <= 0.97


def test_interval_of_a_difference_between_systems_of_several_runs_covers():
    def draw(rng):
        speakers, items = rng.normal(size=12), rng.normal(size=(12, 4))
        runs = [
            [_table(1.0 * system + 0.5 * rng.normal(), rng, speakers, items) for _ in range(4)]
            for system in (1, 0)
        ]
        return statistics.over_runs(*runs)

    assert 0.93 <= _coverage(draw, 1.0, 600) <= 0.985


def test_interval_of_a_proportion_over_speakers_covers_the_truth():
    def draw(rng):
        rates = rng.beta(8, 2, 15)
        return statistics.proportion(
            list(rng.random(150) < rates.repeat(10)), clusters=_speakers(15, 10)
        )

    assert 0.93 <= _coverage(draw, 0.8) <= 0.975


# Against scipy and by hand.


def test_point_estimate_weighs_items_by_their_words():
    assert statistics.ratio([0, 10], [90, 10]).value == pytest.approx(0.1)
    assert statistics.paired_ratio_difference([1, 1], [2, 2], [0, 1], [3, 1]).value == 0.25


def test_few_speakers_with_equal_numbers_have_the_interval_of_a_t_test_on_their_means():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(7, 4))
    estimate = statistics.mean(values.ravel(), clusters=_speakers(7, 4))
    expected = stats.ttest_1samp(values.mean(axis=1), 0).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high))
    assert estimate.interval == {"over": "speakers", "units": 7, "method": "Student's t"}


def test_the_bootstrap_agrees_with_scipy_where_units_are_many():
    values = np.random.default_rng(0).gamma(2.0, size=400)
    ours = statistics.mean(values, resamples=20000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    assert ours.interval == {"over": "items", "units": 400, "method": "bootstrap"}


def test_percentiles_are_expanded_as_students_t_asks():
    samples = np.random.default_rng(0).normal(size=200_000)
    low, high = resampling.percentiles(samples, 20)
    expected = stats.t.ppf(0.975, 19) * np.sqrt(20 / 19)
    assert (low, high) == pytest.approx((-expected, expected), abs=0.02)


def test_the_p_value_of_few_units_is_that_of_scipys_exact_permutation_test():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.6, 1, 9), rng.normal(size=9)
    ours = statistics.paired_mean_difference(a, b)
    theirs = stats.permutation_test(
        (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples"
    )
    assert ours.p == pytest.approx(theirs.pvalue)
    assert ours.p_method == "exact permutation"


def test_items_of_a_speaker_are_swapped_together():
    # Three speakers, all better: of 8 ways to swap whole speakers two are as extreme.
    base = np.zeros(30)
    ours = statistics.paired_mean_difference(base + 1, base, clusters=_speakers(3, 10))
    assert ours.p == pytest.approx(2 / 8)
    alone = statistics.paired_mean_difference(base + 1, base)
    assert alone.p < 0.001
    assert alone.p_method == "permutation"


def test_swapping_keeps_each_systems_own_denominator():
    # Systems with other denominators: swapped by hand, (1/2 - 3/4) and its mirror, two units.
    estimate = statistics.paired_ratio_difference([1, 0], [1, 1], [2, 1], [2, 2])
    differences = [1 / 2 - 3 / 4, 2 / 3 - 2 / 3, 2 / 3 - 2 / 3, 3 / 4 - 1 / 2]
    assert estimate.value == pytest.approx(differences[0])
    assert estimate.p == pytest.approx(np.mean(np.abs(differences) >= 0.25))


def test_one_run_has_the_error_of_its_speakers_and_equal_speakers_that_of_the_runs():
    rng = np.random.default_rng(0)
    means = rng.normal(size=8)
    table = [(str(i), f"s{i}", float(mean), 1.0) for i, mean in enumerate(means)]
    estimate = statistics.over_runs([table])
    expected = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high))
    effects = rng.normal(size=6)
    runs = [[(str(i), str(i), float(effect), 1.0) for i in range(8)] for effect in effects]
    estimate = statistics.over_runs(runs)
    expected = stats.ttest_1samp(effects, 0).confidence_interval(0.95)
    # The variance of the cells, an eighth here, counts once: they are not independent.
    assert estimate.high - estimate.low <= expected.high - expected.low + 1e-9
    assert estimate.high - estimate.low > 0.8 * (expected.high - expected.low)
    assert estimate.over == "runs and items"


def test_the_median_is_that_of_the_items_and_its_interval_is_by_the_bootstrap():
    values = np.array([0.0, 0.1, 0.4, 0.9])
    assert statistics.median(values).value == pytest.approx(0.25)
    rng = np.random.default_rng(0)
    many = rng.normal(size=300)
    ours = statistics.median(many, resamples=4000)
    theirs = stats.bootstrap((many,), np.median, n_resamples=4000, method="percentile", rng=rng)
    expected = theirs.confidence_interval
    assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high), abs=0.03)
    grouped = statistics.median(many.repeat(2), clusters=[str(i // 2) for i in range(600)])
    assert grouped.units == 300
    assert statistics.median([1.0]).ci95 is None


def test_share_is_scipys_wilson_interval():
    for successes, n in ((8, 10), (0, 20), (20, 20), (37, 90)):
        ours = statistics.share(successes, n)
        theirs = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_items_of_speakers_that_all_agree_count_once():
    hits = [speaker % 2 == 0 for speaker in range(10) for _ in range(8)]
    clustered = statistics.proportion(hits, clusters=_speakers(10, 8))
    alone = statistics.share(5, 10)
    # Ten speakers are as good as ten items, but for n - 1 and the quantile of t.
    assert clustered.high - clustered.low == pytest.approx(alone.high - alone.low, rel=0.2)
    assert statistics.proportion(hits).high - 0.5 < 0.6 * (clustered.high - 0.5)
    assert statistics.proportion([True] * 20, clusters=_speakers(10, 2)).low < 0.9


# Rules.


def test_intervals_are_over_speakers_where_five_are_known():
    four, five = ["a", "b", "c", "d"], ["a", "b", "c", "d", "e"]
    assert statistics.usable(None) is None
    assert statistics.usable([*four, "unknown", ""]) is None
    assert statistics.usable(five * 2) == five * 2
    clusters = statistics.usable([*five, "unknown", "unknown"])
    assert len(set(clusters)) == 7


def test_rows_say_what_their_interval_is_over():
    estimate = statistics.mean(np.arange(30.0), clusters=_speakers(6, 5))
    row = statistics.row(estimate, 30)
    assert row["interval"] == {"over": "speakers", "units": 6, "method": "Student's t"}
    assert "p" not in row
    difference = statistics.paired_mean_difference([1.0, 2.0, 4.0], [1.0, 1.0, 1.0])
    assert statistics.row(difference, 3)["p"] == pytest.approx(4 / 8)


def test_a_rate_has_no_negative_bound():
    estimate = statistics.ratio([0, 0, 0, 0, 3], [5] * 5, clusters=list("abcde"))
    assert estimate.low == 0


def test_intervals_depend_on_the_seed_only():
    values = np.random.default_rng(0).normal(size=50)
    assert statistics.mean(values, seed=1) == statistics.mean(values, seed=1)
    assert statistics.mean(values, seed=1) != statistics.mean(values, seed=2)


def test_blocks_of_resamples_do_not_lose_any(monkeypatch):
    monkeypatch.setattr(resampling, "_CELLS", 280)  # 7 resamples of 40 items at a time
    estimate = statistics.mean(np.arange(40.0), resamples=1000)
    expected = 2 * 1.96 * np.arange(40.0).std() / np.sqrt(40)
    assert estimate.high - estimate.low == pytest.approx(expected, rel=0.1)


def test_no_interval_from_a_single_item_or_speaker():
    assert statistics.mean([1.0]).ci95 is None
    assert statistics.mean([1.0, 2.0], clusters=["a", "a"]).ci95 is None


@pytest.mark.parametrize(
    ("numerators", "denominators"), [([], []), ([1.0], [1.0, 2.0]), ([np.nan], [1.0])]
)
def test_bad_columns_are_refused(numerators, denominators):
    with pytest.raises(ValueError, match=r"items|columns"):
        statistics.ratio(numerators, denominators)


def test_impossible_share_is_refused():
    with pytest.raises(ValueError, match="proportion"):
        statistics.share(3, 2)
