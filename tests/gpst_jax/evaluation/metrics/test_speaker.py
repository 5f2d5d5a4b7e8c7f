import numpy as np
import pytest

from data_pipeline.audio.io import load_audio
from gpst_jax.evaluation.metrics import speaker


@pytest.fixture(scope="module")
def embed():
    pytest.importorskip("resemblyzer")
    return speaker.load_resemblyzer()


def test_same_voice_is_nearer_than_another(embed, spoken_digits):
    vectors = [embed(load_audio(path, 16000)) for path, _, _ in spoken_digits[:4]]
    same = [speaker.cosine(vectors[0], vectors[2]), speaker.cosine(vectors[1], vectors[3])]
    other = [speaker.cosine(vectors[0], vectors[1]), speaker.cosine(vectors[2], vectors[3])]
    assert min(same) > max(other) + 0.1


def test_a_clip_without_detected_speech_is_embedded_unprocessed(embed):
    rng = np.random.default_rng(0)
    quiet = (1e-3 * rng.standard_normal(3200)).astype(np.float32)  # VAD keeps none of it
    hum = (0.1 * np.sin(np.arange(3200) * 0.05)).astype(np.float32)
    a, b = embed(quiet), embed(hum)
    assert len(a) == 256
    assert np.isfinite([a, b]).all()
    assert speaker.cosine(a, b) < 0.999  # not the embedding of an empty clip


def test_bundled_weights_load_as_tensors_only(embed):
    import resemblyzer
    import torch

    path = f"{resemblyzer.__path__[0]}/pretrained.pt"
    assert "model_state" in torch.load(path, weights_only=True, map_location="cpu")


def test_cosine_of_nothing_is_zero():
    assert speaker.cosine([0.0, 0.0], [1.0, 0.0]) == 0.0
    assert speaker.cosine([2.0, 0.0], [1.0, 1.0]) == pytest.approx(np.sqrt(0.5))
