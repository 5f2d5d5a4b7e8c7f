import numpy as np
import pytest

from data_pipeline.audio.io import load_audio
from gpst_jax.evaluation.metrics import mos

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
