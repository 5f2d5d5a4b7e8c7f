"""Checks of recipes on recordings: the equal error rate, noise, and the program on toy voices."""

import numpy as np
import pytest


@pytest.fixture
def study():
    from experiments.studies import recipes

    return recipes


def test_equal_error_rate_of_scores_worked_by_hand(study):
    ones = np.ones(2)
    assert study.equal_error_rate(np.array([[0.9, 0.1], [0.2, 0.8]]), ones) == 0
    assert study.equal_error_rate(np.array([[0.1, 0.9], [0.8, 0.2]]), ones) == 1
    # Same: 0.6, 0.4. Different: 0.5, 0.3. Between 0.4 and 0.5 half of each is wrong.
    assert study.equal_error_rate(np.array([[0.6, 0.5], [0.3, 0.4]]), ones) == 0.5


def test_equal_error_rate_of_two_normal_distributions_is_that_of_theory(study):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(400, 400)) + 2 * np.eye(400)
    # Both errors are equal at the middle: Phi(-1) = 15.9 %.
    assert study.equal_error_rate(scores, np.ones(400)) == pytest.approx(0.159, abs=0.04)


def test_a_speaker_drawn_twice_counts_as_two(study):
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(6, 6)) + np.eye(6)
    weights = np.array([2.0, 0, 1, 1, 1, 1])
    kept = [0, 0, 2, 3, 4, 5]
    doubled = scores[np.ix_(kept, kept)]
    same = np.eye(6, dtype=bool)
    same[0, 1] = same[1, 0] = True
    expected = study.equal_error_rate(scores, weights)
    # By hand: thresholds over all scores, pairs of the doubled speaker are of one speaker.
    thresholds = np.sort(doubled.ravel())
    rejected = np.array([(np.diag(doubled) <= t).mean() for t in thresholds])
    accepted = np.array([(doubled[~same] > t).mean() for t in thresholds])
    place = int(np.argmax(rejected >= accepted))
    assert expected == pytest.approx((rejected[place] + accepted[place]) / 2)


def test_noise_has_the_ratio_asked_for(study):
    rng = np.random.default_rng(0)
    wav = (0.1 * rng.standard_normal(16000)).astype(np.float32)
    levels = study.with_noise({"a": wav}, [20.0, 0.0], seed=1)
    assert list(levels) == ["clean", "20 dB", "0 dB"]
    for name, ratio in (("20 dB", 20), ("0 dB", 0)):
        noise = levels[name]["a"] - wav
        found = 10 * np.log10(np.mean(wav**2) / np.mean(noise**2))
        assert found == pytest.approx(ratio, abs=0.01)


def test_rows_have_intervals_over_speakers(study):
    rng = np.random.default_rng(0)
    vectors = {}
    for speaker in range(20):
        centre = rng.normal(size=8)
        for half in (0, 1):
            vectors[f"s/{speaker}/{half}"] = (centre + 0.3 * rng.normal(size=8)).tolist()
    row = study.error_rate_row(vectors, seed=0)
    assert row["n"] == 20
    assert row["ci95"][0] <= row["value"] <= row["ci95"][1] + 0.05
    assert row["same_mean"] > row["different_mean"] + 0.5
