import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.audio.io import load_audio
from gpst_jax.evaluation.metrics import mos
from gpst_jax.evaluation.metrics.base import Inputs
from gpst_jax.evaluation.metrics.recipe import Outcome
from gpst_jax.samples.manifest import Sample

BOOTSTRAP = {"resamples": 200, "seed": 0}


@pytest.mark.slow
def test_noise_lowers_the_scores(spoken_digits):
    pytest.importorskip("speechmos")
    score = mos.load_speechmos()
    wav = load_audio(spoken_digits[0][0], 16000)
    noise = np.random.default_rng(0).standard_normal(len(wav)).astype(np.float32)
    clean, noisy = score(wav), score(wav + 0.2 * noise)
    assert set(clean) == set(mos.OUTPUTS)
    assert all(1 <= value <= 5 for value in clean.values())
    assert clean["ovrl_mos"] > noisy["ovrl_mos"] + 0.3
    assert clean["bak_mos"] > noisy["bak_mos"] + 0.3


def test_failed_files_score_the_lowest():
    good = {"ovrl_mos": 4.0, "sig_mos": 4.0, "bak_mos": 3.0, "p808_mos": 3.0}
    row = mos.summarise([good, None], "ovrl_mos", **BOOTSTRAP)
    assert row["value"] == 2.5
    assert (row["n"], row["failed"], row["bak_mos"]) == (2, 1, 2.0)
    assert mos.summarise([], "ovrl_mos", **BOOTSTRAP)["value"] is None


def test_scores_of_several_predictors_stand_side_by_side():
    def measure(measurement, paths):
        value = {"distillmos": 3.5} if "distillmos" in measurement.id else {"ovrl_mos": 2.0}
        value |= {"sig_mos": 2.0, "bak_mos": 2.0}
        return {path: Outcome(value) for path in paths}

    samples = [Sample(id="a", audio=Path("a.wav"), speaker="s")]
    metric = mos.OpinionScores(mos=("dnsmos-p835/speechmos", "mos/distillmos"))
    scores = metric.score(Inputs({"codec": samples}, measure, 20, 0))
    assert scores.rows["codec", "dnsmos-p835/speechmos"]["value"] == 2.0
    assert scores.rows["codec", "mos/distillmos"]["value"] == 3.5
    assert {"distillmos", "ovrl_mos"} <= scores.items["codec", "a"]["mos"].keys()


def test_distillmos_is_scored_by_default_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(mos, "find_spec", lambda module: None)
    assert mos.default_recipes() == ("dnsmos-p835/speechmos", "dnsmos-p808/speechmos")
    monkeypatch.setattr(mos, "find_spec", lambda module: object())
    assert mos.default_recipes()[-1] == "mos/distillmos"


def test_distillmos_scores_a_sound_of_any_length_the_same_twice(spoken_digits):
    pytest.importorskip("torch")
    if importlib.util.find_spec("distillmos") is None:
        pytest.skip("distillmos is not installed")
    score = mos.load_distillmos()
    wav = load_audio(spoken_digits[0][0], 16000)
    assert score(wav) == score(wav)
    assert score(wav)["distillmos"] != score(wav[::-1].copy())["distillmos"]
    for sound in (wav[:1600], np.zeros(16000, np.float32), 100 * wav):
        assert 1 <= score(sound)["distillmos"] <= 5
    assert "torchaudio" not in sys.modules or importlib.util.find_spec("torchaudio")
