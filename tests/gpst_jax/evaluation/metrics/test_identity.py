import numpy as np

from gpst_jax.evaluation.metrics import identity
from gpst_jax.samples.manifest import Sample

BOOTSTRAP = {"resamples": 200, "seed": 0}


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


def test_fraction_nearer_to_the_prompt_counts_failures_and_drops_similar_voices(tmp_path):
    vectors = {"anna": [1, 0], "bert": [0, 1], "near_bert": [0.3, 1], "cleo": [1, 0.2]}
    table = {tmp_path / name: vector for name, vector in vectors.items()}
    means = {name: np.array(vector) for name, vector in vectors.items()}
    samples = [_transfer(i, "near_bert", tmp_path) for i in range(6)]
    samples += [_transfer(6, "anna", tmp_path), _transfer(7, "missing", tmp_path)]
    samples += [_transfer(8, "near_bert", tmp_path, "cleo")]  # cleo sounds like anna
    row = identity.closer_to_prompt(samples, table.get, means, threshold=0.75, **BOOTSTRAP)
    assert (row["n"], row["candidates"]) == (8, 9)
    assert row["value"] == 6 / 8
    assert row["prompt_reference_codec_audio"]["value"] == 1
    assert row["difference_to_codec"]["value"] == -2 / 8
    none = identity.closer_to_prompt(samples, table.get, means, threshold=-1.0, **BOOTSTRAP)
    assert none["value"] is None
    assert "clearly different" in none["reason"]
