"""The torch class equals JAX: logits, losses, and greedy decoding token by token."""

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest

from data_pipeline import tokens
from gpst_jax.config import GPSTConfig
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.gpst_modes import RequestBuilder
from gpst_jax.generation.gpst_sampler import Decoder
from gpst_jax.models import gpst
from gpst_jax.objectives import GPSTObjective
from gpst_jax.weights import loading
from gpst_jax.weights.directory import export

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
hf = pytest.importorskip("gpst_jax.hf")

CASES = [
    ("modern", False, 8),
    ("modern", True, 16),
    ("paper", False, 16),
    ("paper", True, 8),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, case)))
def pair(request, stored, tmp_path_factory):
    """A stored model, and the torch model that transformers loads of its export."""
    model = stored(*request.param)
    directory = tmp_path_factory.mktemp("hf") / "out"
    export(loading.open_source(model.workdir), directory, "hf", shard_bytes=30_000)
    loaded = transformers.AutoModel.from_pretrained(directory).eval()
    assert type(loaded) is hf.GPSTForSpeech
    return model, loaded


@pytest.fixture(scope="module")
def batch_of(request):
    """Makes two packed rows for a model, the second with padding."""
    pack_rows, random_part = (request.getfixturevalue(n) for n in ("pack_rows", "random_part"))

    def make(model):
        layout, rng = model.spec.layout(), np.random.default_rng(1)
        segments = [
            tokens.segment_tokens(
                layout,
                [random_part(layout, rng, units, frames)],
                positions=model.config.data.positions,
            )
            for units, frames in ((7, 10), (5, 8), (9, 12))
        ]
        return pack_rows([segments[:2], segments[2:]], 40, 24)

    return make


@pytest.fixture(scope="module")
def batch(pair, batch_of):
    """The rows of `pair`."""
    return batch_of(pair[0])


def _tensors(batch):
    """The loader's arrays as they are."""
    assert {value.dtype.name for value in batch.values()} == {"int32"}
    return {name: torch.from_numpy(value) for name, value in batch.items()}


def _jax_loss(model, batch):
    objective = GPSTObjective(model.config, model.spec.layout())
    with jax.default_matmul_precision("highest"):
        weights = objective.weights(batch)
        return objective.loss(model.params, batch, jax.random.key(0), weights, False)[0]


def test_logits_and_loss_are_equal(pair, batch):
    model, loaded = pair
    ours = gpst.bind(model.config.model_as(GPSTConfig), model.spec.layout(), model.params)
    with jax.default_matmul_precision("highest"):
        hidden = ours.hidden(*(batch[n] for n in ("tokens", "positions", "streams", "segment_ids")))
        semantic = np.asarray(ours.semantic_logits(hidden))
        picked = np.take_along_axis(np.asarray(hidden), batch["frame_index"][..., None], axis=1)
        depth = model.spec.layout().num_codebooks
        local = ours.local_hidden(
            picked.reshape(-1, picked.shape[-1]), batch["frames"].reshape(-1, depth)
        )
        acoustic = np.asarray(ours.acoustic_logits(local)).reshape(*batch["frames"].shape, -1)
    with torch.no_grad():
        output = loaded(**_tensors(batch))
    real, frames = batch["segment_ids"] > 0, batch["frame_segments"] > 0
    assert np.abs(semantic[real] - output.semantic_logits.numpy()[real]).max() < 1e-4
    assert np.abs(acoustic[frames] - output.acoustic_logits.numpy()[frames]).max() < 1e-4
    assert np.abs(semantic[real]).max() > 1  # not equal because all is near zero
    np.testing.assert_allclose(output.loss.item(), _jax_loss(model, batch), rtol=1e-5)


def test_weighted_losses_are_equal(pair, batch, monkeypatch):
    model, loaded = pair
    weights = {"semantic_weight": 0.5, "codebook_weights": "geometric:0.5", "z_loss": 0.01}
    config = dataclasses.replace(model.config.model_as(GPSTConfig), **weights)
    weighted = dataclasses.replace(model, config=dataclasses.replace(model.config, model=config))
    monkeypatch.setattr(loaded, "model_config", config)
    with torch.no_grad():
        loss = loaded(**_tensors(batch)).loss.item()
    assert abs(loss - float(_jax_loss(model, batch))) > 1e-2
    np.testing.assert_allclose(loss, _jax_loss(weighted, batch), rtol=1e-5)


def test_int64_gives_the_loss_of_int32(pair, batch):
    _, loaded = pair
    tensors = _tensors(batch)
    with torch.no_grad():
        output = loaded(**{name: array.long() for name, array in tensors.items()})
        assert output.loss == loaded(**tensors).loss


def test_bfloat16_gives_a_near_loss_and_gradients(modern, batch_of):
    model, directory = modern
    loaded = hf.GPSTForSpeech.from_pretrained(directory, dtype=torch.bfloat16)
    batch = batch_of(model)
    loss = loaded(**_tensors(batch)).loss
    assert loss.dtype == torch.float32
    np.testing.assert_allclose(loss.item(), _jax_loss(model, batch), rtol=0.03)
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in loaded.parameters())


@pytest.mark.parametrize("nothing", ["semantic_targets", "frame_segments"])
def test_a_batch_without_targets_of_a_stream_has_its_loss_in_jax(modern, batch_of, nothing):
    model, directory = modern
    loaded = hf.GPSTForSpeech.from_pretrained(directory)
    batch = dict(batch_of(model))
    batch[nothing] = np.full_like(batch[nothing], {"semantic_targets": -1}.get(nothing, 0))
    with torch.no_grad():
        loss = loaded(**_tensors(batch)).loss.item()
    np.testing.assert_allclose(loss, _jax_loss(model, batch), rtol=1e-5)


def test_greedy_decoding_is_equal_in_every_mode(pair, random_part):
    model, loaded = pair
    layout, rng = model.spec.layout(), np.random.default_rng(2)
    silence = model.spec.silence
    builder = RequestBuilder(layout, (np.array(silence.units), np.array(silence.codes)))
    parts = [random_part(layout, rng, units, frames) for units, frames in ((6, 9), (4, 6), (8, 12))]
    requests = [
        builder.unconditional(0.4, item=0),
        builder.semantic_to_acoustic(parts[0][0], item=1),
        builder.speaker_transfer([parts[0]], [parts[1]], item=2),
        builder.continuation([parts[2]], 0.06, item=3),
        # The model may end at once: what it must not do in the requests above.
        dataclasses.replace(builder.semantic_to_acoustic(parts[1][0], item=4), min_frames=0),
    ]
    greedy = SamplingConfig(top_k=1)
    decoder = Decoder(model.config.model, layout, model.params, model.config.data.positions)
    with jax.default_matmul_precision("highest"):
        ours = decoder.decode(requests, semantic=greedy, acoustic=greedy)
    theirs = loaded.generate(requests, semantic=greedy, acoustic=greedy)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.units, b.units)
        np.testing.assert_array_equal(a.codes, b.codes)
        assert a.units_ended == b.units_ended
        assert a.frames_ended == b.frames_ended
        np.testing.assert_allclose(a.log_prob_units, b.log_prob_units, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(a.log_prob_frames, b.log_prob_frames, rtol=1e-4, atol=1e-3)
    assert len({tuple(r.codes.ravel()) for r in ours[1:4]}) == 3


@pytest.fixture(scope="module")
def modern(stored, tmp_path_factory):
    """One model and its torch counterpart, changed by nobody."""
    directory = tmp_path_factory.mktemp("modern") / "out"
    export(loading.open_source(stored().workdir), directory, "hf")
    return stored(), directory


def test_samples_depend_on_seed_and_item_only(modern):
    model, directory = modern
    loaded = hf.GPSTForSpeech.from_pretrained(directory)
    builder = RequestBuilder(model.spec.layout(), ((), ()))
    requests = [builder.semantic_to_acoustic(np.arange(6), item=item) for item in (0, 1)]
    sampling = SamplingConfig(temperature=2.0, top_k=5)
    first = loaded.generate(requests, acoustic=sampling, seed=3)
    alone = loaded.generate(requests[1:], acoustic=sampling, seed=3)
    np.testing.assert_array_equal(first[1].codes, alone[0].codes)
    assert not np.array_equal(first[0].codes, first[1].codes)
    other = loaded.generate(requests[1:], acoustic=sampling, seed=4)
    assert not np.array_equal(other[0].codes, alone[0].codes)


def test_a_model_trained_in_torch_comes_back(modern, tmp_path, pack_rows, random_part):
    """Gradient step in torch, `save_pretrained`, import: JAX has the new values."""
    model, directory = modern
    loaded = transformers.AutoModel.from_pretrained(directory)
    layout = model.spec.layout()
    part = random_part(layout, np.random.default_rng(0), 6, 9)
    batch = pack_rows([[tokens.segment_tokens(layout, [part])]], 20, 12)
    loss = loaded(**_tensors(batch)).loss
    loss.backward()
    with torch.no_grad():
        for parameter in loaded.parameters():
            assert parameter.grad is not None
            parameter -= 0.01 * parameter.grad
    loaded.save_pretrained(tmp_path / "tuned")
    for name in ("dataset.json", "tokenizers"):
        (tmp_path / "tuned" / name).symlink_to(directory / name)
    back = loading.load(loading.open_source(tmp_path / "tuned")).params
    objective = GPSTObjective(model.config, layout)
    new = objective.loss(back, batch, jax.random.key(0), objective.weights(batch), False)[0]
    assert new < loss.item()
    kernel = back["global_net"]["layers"]["attn"]["q"]["kernel"][1]
    expected = loaded.global_net.layers[1].attn.q.weight.detach().numpy().T
    np.testing.assert_array_equal(kernel, expected)


def test_importing_the_classes_does_not_start_jax():
    code = "import sys, gpst_jax.hf; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
