import numpy as np
import pytest

from data_pipeline.audio.io import load_audio
from gpst_jax.evaluation import comparisons
from gpst_jax.evaluation.metrics import speaker
from gpst_jax.samples.manifest import Sample

BOOTSTRAP = {"resamples": 200, "seed": 0}


@pytest.fixture(scope="module")
def embed():
    pytest.importorskip("resemblyzer")
    return speaker.load_resemblyzer()


def test_same_voice_is_nearer_than_another(embed, spoken_digits):
    vectors = [embed(load_audio(path, 16000)) for path, _, _ in spoken_digits[:4]]
    same = [speaker.cosine(vectors[0], vectors[2]), speaker.cosine(vectors[1], vectors[3])]
    other = [speaker.cosine(vectors[0], vectors[1]), speaker.cosine(vectors[2], vectors[3])]
    assert min(same) > max(other) + 0.1


def test_a_clip_without_detected_speech_is_embedded_whole(embed):
    rng = np.random.default_rng(0)
    quiet = (1e-3 * rng.standard_normal(3200)).astype(np.float32)  # the detector keeps none of it
    hum = (0.1 * np.sin(np.arange(3200) * 0.05)).astype(np.float32)
    a, b = embed(quiet), embed(hum)
    assert len(a) == 256
    assert np.isfinite([a, b]).all()
    assert speaker.cosine(a, b) < 0.999  # it is not the embedding of nothing


def test_bundled_weights_load_as_tensors_only(embed):
    import resemblyzer
    import torch

    path = f"{resemblyzer.__path__[0]}/pretrained.pt"
    assert "model_state" in torch.load(path, weights_only=True, map_location="cpu")


def test_cosine_of_nothing_is_zero():
    assert speaker.cosine([0.0, 0.0], [1.0, 0.0]) == 0.0
    assert speaker.cosine([2.0, 0.0], [1.0, 1.0]) == pytest.approx(np.sqrt(0.5))


def _transfer(i, audio, tmp_path, prompt_speaker="bert"):
    return Sample(
        id=str(i),
        audio=tmp_path / audio,
        speaker="anna",
        prompt_speaker=prompt_speaker,
        source_audio=tmp_path / "anna",
        prompt_audio=tmp_path / prompt_speaker,
        prompt_reference_audio=tmp_path / "bert",
        prompt_reference_codec_audio=tmp_path / "near_bert",
    )


def test_share_nearer_to_the_prompt_counts_failures_and_drops_similar_voices(tmp_path):
    vectors = {"anna": [1, 0], "bert": [0, 1], "near_bert": [0.3, 1], "cleo": [1, 0.2]}
    table = {tmp_path / name: vector for name, vector in vectors.items()}
    means = {name: np.array(vector) for name, vector in vectors.items()}
    samples = [_transfer(i, "near_bert", tmp_path) for i in range(6)]
    samples += [_transfer(6, "anna", tmp_path), _transfer(7, "missing", tmp_path)]
    samples += [_transfer(8, "near_bert", tmp_path, "cleo")]  # cleo sounds like anna
    row = comparisons.closer_to_prompt(samples, table.get, means, threshold=0.75, **BOOTSTRAP)
    assert (row["n"], row["candidates"]) == (8, 9)
    assert row["value"] == 6 / 8
    assert row["prompt_reference_codec_audio"]["value"] == 1
    assert row["difference_to_codec"]["value"] == -2 / 8
    none = comparisons.closer_to_prompt(samples, table.get, means, threshold=-1.0, **BOOTSTRAP)
    assert none["value"] is None
    assert "clearly different" in none["reason"]
