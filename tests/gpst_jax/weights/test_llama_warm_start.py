"""Warm starts from Llama weights, of the language model and of the global transformer."""

import dataclasses
import types

import jax
import numpy as np
import pytest
from small_llama import IDS, V, logits, random_params, torch_logits

from data_pipeline.tokens import TokenLayout
from data_pipeline.tokens.vocabulary import Vocabulary
from gpst_jax.config import (
    ConfigError,
    DataConfig,
    GPSTConfig,
    MeshConfig,
    RunConfig,
    TransformerConfig,
)
from gpst_jax.objectives import GPSTObjective, SemanticLMObjective
from gpst_jax.parallel import sharding
from gpst_jax.training.step import abstract_state
from gpst_jax.warm_start import from_weights
from gpst_jax.weights import llama, loading

VOCABULARY = Vocabulary(text_size=V - 1, num_units=20)  # the table has one row more than ids


def _objective(saved, vocabulary=VOCABULARY, **changes):
    model = dataclasses.replace(llama.read_config(saved["llama2"][0])[0], **changes)
    config = RunConfig("toy", model, DataConfig(batch_size=8, sequence_length=16))
    return SemanticLMObjective(config, vocabulary)


def _spec(vocabulary=VOCABULARY, sha256="a"):
    tokenizer = types.SimpleNamespace(id="text", sha256=sha256)
    return types.SimpleNamespace(vocabulary=vocabulary, text_tokenizer=tokenizer)


def _warm_start(path, objective, spec, mesh=None):
    config = objective.config
    mesh = mesh or sharding.make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    initial = from_weights.initial_params(path, config, objective, spec)
    with jax.set_mesh(mesh):
        return initial(abstract_state(objective, config, mesh).params)


def test_a_warm_start_from_llama_keeps_its_text_logits(saved):
    directory, model = saved["llama2"]
    objective = _objective(saved)
    params = _warm_start(directory, objective, _spec(), sharding.make_mesh(MeshConfig(1, 4, 2)))
    ids = np.minimum(IDS, V - 2)
    params = jax.device_get(params)
    found = logits(objective.model_config, params, ids)
    assert found.shape[-1] == VOCABULARY.size == V - 1 + len(VOCABULARY.specials) + 20
    expected = torch_logits(model, ids)[..., : V - 1]
    np.testing.assert_allclose(found[..., : V - 1], expected, atol=1e-4)
    new = params["embed"]["embedding"][V - 1 :]
    old = params["embed"]["embedding"][: V - 1]
    assert (new.std(axis=0) > 0).all()
    np.testing.assert_allclose(new.mean(axis=0), old.mean(axis=0), atol=0.2 * old.std())
    assert found[..., V - 1 :].max() < found[..., : V - 1].max()  # no new id is likely


def test_another_architecture_is_refused_by_field(saved):
    directory = saved["llama2"][0]
    for name, value in (("rope_base", 77.0), ("norm_epsilon", 1e-6), ("block", "modern")):
        with pytest.raises(ConfigError, match=rf"model\.{name}"):
            _warm_start(directory, _objective(saved, **{name: value}), _spec())


class _Run:
    """A source that stands for a run with another vocabulary."""

    def __init__(self, params, sha256="a"):
        self.arrays = {
            sharding.path_string(path): np.asarray(leaf)
            for path, leaf in jax.tree.leaves_with_path(params)
        }
        run = types.SimpleNamespace(name="before")
        self.description = types.SimpleNamespace(
            config=run, dataset={"text_tokenizer": {"id": "other", "sha256": sha256}}
        )

    def shapes(self):
        return self.arrays

    def stream(self, path, budget):
        yield 0, self.arrays[path]


def test_a_warm_start_with_other_units_keeps_text_and_markers(saved, monkeypatch):
    objective = _objective(saved, Vocabulary(V - 1, 33))
    before = _objective(saved)
    params = random_params(before.init)
    monkeypatch.setattr(from_weights.loading, "open_source", lambda path: _Run(params))
    found = _warm_start("run", objective, _spec(objective.vocabulary))
    kept = VOCABULARY.unit_start
    for one, two in (
        (found["embed"]["embedding"], params["embed"]["embedding"]),
        (found["head"]["kernel"].T, params["head"]["kernel"].T),
    ):
        assert len(one) == objective.vocabulary.size
        np.testing.assert_array_equal(one[:kept], two[:kept])
        assert not np.array_equal(one[kept : kept + 20], two[kept : kept + 20])
    jax.tree.map(np.testing.assert_array_equal, found["net"], params["net"])
    same = _warm_start("run", before, _spec())
    jax.tree.map(np.testing.assert_array_equal, same, params)


def test_another_text_tokenizer_or_width_is_refused(saved, monkeypatch):
    params = random_params(_objective(saved).init)
    monkeypatch.setattr(from_weights.loading, "open_source", lambda path: _Run(params, "b"))
    with pytest.raises(ConfigError, match=r"train\.init_from: .* other \(b\), .* text \(a\)"):
        _warm_start("run", _objective(saved), _spec())
    monkeypatch.setattr(from_weights.loading, "open_source", lambda path: _Run(params))
    wide = _objective(saved, net=TransformerConfig(32, 3, 4, 64))
    with pytest.raises(
        ConfigError, match=r"model\.net: net/layers/mlp/down/kernel is \(3, 56, 32\)"
    ):
        _warm_start("run", wide, _spec())


def test_warm_start_of_the_global_transformer_from_llama(saved, monkeypatch):
    directory = saved["llama2"][0]
    layout = TokenLayout(num_units=8, num_codebooks=2, codebook_size=8, unit_rate=50, frame_rate=50)
    net = llama.read_config(directory)[0].net
    small = TransformerConfig(16, 1, 2, 24)
    data = DataConfig(batch_size=8, sequence_length=16, frame_budget=8, crop_seconds=0.1)
    objective = GPSTObjective(RunConfig("toy", GPSTConfig(net, small), data), layout)
    drawn = random_params(objective.init)
    monkeypatch.setattr(from_weights, "_draw", lambda *_: drawn)
    params = _warm_start(directory, objective, None)
    source = loading.load(llama.LlamaSource(directory)).params["net"]
    layers, taken = params["global_net"]["layers"], source["layers"]
    for part in ("attn_norm", "mlp_norm", "mlp"):
        jax.tree.map(np.testing.assert_array_equal, layers[part], taken[part])
    for part in ("q", "k", "v", "out"):
        np.testing.assert_array_equal(layers["attn"][part]["kernel"], taken["attn"][part]["kernel"])
    np.testing.assert_array_equal(
        params["global_net"]["embed"]["embedding"], drawn["global_net"]["embed"]["embedding"]
    )
    jax.tree.map(np.testing.assert_array_equal, params["local_net"], drawn["local_net"])
    other = dataclasses.replace(net, d_ff=64)
    objective = GPSTObjective(RunConfig("toy", GPSTConfig(other, small), data), layout)
    with pytest.raises(ConfigError, match=r"model\.global_net: .*mlp"):
        _warm_start(directory, objective, None)
