import numpy as np
import pytest

from data_pipeline.audio.io import load_audio
from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.metrics import speaker
from gpst_jax.evaluation.metrics.base import Inputs
from gpst_jax.evaluation.metrics.recipe import Outcome
from gpst_jax.evaluation.speakers import resemblyzer
from gpst_jax.samples.manifest import Sample


@pytest.fixture(scope="module")
def embed():
    pytest.importorskip("resemblyzer")
    return resemblyzer.load()


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


def _scores(conditions, **settings):
    """Scores of samples whose files are called by the angle of their embedding, in degrees."""

    def measure(measurement, paths):
        angles = {path: np.radians(float(path.name)) for path in paths}
        return {path: Outcome([np.cos(a), np.sin(a)]) for path, a in angles.items()}

    return speaker.Similarity(**settings).score(Inputs(conditions, measure, 50, 0))


def test_sim_o_is_to_the_original_and_sim_r_to_what_came_through_the_codec(tmp_path):
    def file(degrees):
        path = tmp_path / str(degrees)
        path.write_text(str(degrees), encoding="utf-8")
        return path

    transfer = Sample(
        id="a",
        audio=file(80),
        speaker="x",
        prompt_speaker="y",
        source_audio=file(0),
        prompt_audio=file(90),
        prompt_reference_codec_audio=file(75),
    )
    rendered = Sample(id="a", audio=file(20), speaker="x", source_audio=file(0))
    codec = Sample(id="a", audio=file(10), speaker="x", source_audio=file(0))
    found = _scores(
        {"codec": [codec], "semantic_to_acoustic": [rendered], "speaker_transfer": [transfer]}
    )
    o, r = "sim-o/resemblyzer-smoke", "sim-r/resemblyzer-smoke"
    for condition, recipe, degrees in (
        ("speaker_transfer", o, 10),
        ("speaker_transfer", r, 5),
        ("semantic_to_acoustic", o, 20),
        ("semantic_to_acoustic", r, 10),
        ("codec", o, 10),
    ):
        row = found.rows[condition, recipe]
        assert row["value"] == pytest.approx(np.cos(np.radians(degrees))), (condition, recipe)
    assert ("codec", r) not in found.rows
    assert found.rows["semantic_to_acoustic", r]["reference"] == "the source through the codec"
    item = found.items["speaker_transfer", "a"]
    assert set(item) == {"similarity", "similarity_resynthesised"}
    stored = speaker.Similarity.stored(r, [{"id": "a"} | item], {"similarity": o})
    assert stored == {"a": pytest.approx(np.cos(np.radians(5)))}
    assert speaker.Similarity.stored(r, [{"id": "a"} | item], {"similarity": "sim-o/x"}) == {}


def test_sim_r_is_chosen_with_sim_o():
    with pytest.raises(UserError, match=r"scored beside sim-o/wavlm-base-plus-sv: choose that"):
        speaker.Similarity(similarity="sim-r/wavlm-base-plus-sv")
    assert [recipe.id for recipe in speaker.Similarity().selected()] == [
        "sim-o/resemblyzer-smoke",
        "sim-r/resemblyzer-smoke",
    ]
