"""Llama weights: logits agree with transformers in both directions, and warm starts from them."""

import dataclasses
import functools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from data_pipeline.runtime.errors import UserError
from data_pipeline.tokens import TokenLayout
from data_pipeline.tokens.vocabulary import Vocabulary
from gpst_jax.checkpoints.record import CheckpointError
from gpst_jax.config import (
    ConfigError,
    DataConfig,
    GPSTConfig,
    MeshConfig,
    RunConfig,
    SemanticLMConfig,
    TransformerConfig,
)
from gpst_jax.config.models import RopeScaling
from gpst_jax.models import semantic_lm
from gpst_jax.objectives import GPSTObjective, SemanticLMObjective
from gpst_jax.parallel import sharding
from gpst_jax.training.step import abstract_state
from gpst_jax.warm_start import from_weights
from gpst_jax.weights import llama, loading
from gpst_jax.weights.llama_names import name_of, to_hf_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

V = 61  # ids of the text
LLAMA2 = {
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-5,
    "vocab_size": V,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
LLAMA3 = LLAMA2 | {
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}
MODELS = {"llama2": LLAMA2, "llama3": LLAMA3}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Directories of two models with random weights, the second sharded; and the models."""
    out = {}
    for seed, (name, fields) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**fields)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                # Norms away from one, logits away from zero.
                scale = 0.2 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
                parameter.add_(scale * torch.randn_like(parameter))
        directory = tmp_path_factory.mktemp(name)
        model.save_pretrained(directory, max_shard_size="30KB" if seed else "50GB")
        out[name] = directory, model
    return out


@pytest.fixture
def copy(saved, tmp_path):
    """Function (changes of config.json) -> a directory with a copy of the Llama 2 model."""

    def make(**changes):
        source = saved["llama2"][0]
        config = json.loads((source / "config.json").read_text()) | changes
        (tmp_path / "config.json").write_text(json.dumps(config))
        save_file(load_file(source / "model.safetensors"), tmp_path / "model.safetensors")
        return tmp_path

    return make


def _edit(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def _logits(config, params, ids):
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1])[None], ids.shape)

    @jax.jit
    def run(params, ids):
        model = semantic_lm.bind(config, params)
        return model.logits(model.hidden(ids, positions))

    return run(params, ids)


def _random_params(init, seed=0):
    """Sampled by NumPy: compiling JAX's generator for every shape is slow."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * leaf.shape[-1] ** -0.5, leaf.dtype),
        shapes,
    )


def _torch_logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor(ids)).logits.numpy()


IDS = np.random.default_rng(0).integers(0, V, (2, 90))


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name, saved):
    directory, model = saved[name]
    assert len(list(directory.glob("*.safetensors"))) == (1 if name == "llama2" else 4)
    source = llama.LlamaSource(directory)
    params = loading.load(source).params
    expected = _torch_logits(model, IDS)
    found = _logits(source.model, params, IDS)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_architecture_is_read(saved):
    config, rows = llama.read_config(saved["llama3"][0])
    assert rows == V
    assert config == SemanticLMConfig(
        TransformerConfig(32, 3, 4, 56, num_kv_heads=2),
        block="llama",
        rope_base=500_000.0,
        rope_scaling=RopeScaling(32.0, 1.0, 4.0, 16),
        tie_embeddings=True,
    )
    plain, _ = llama.read_config(saved["llama2"][0])
    assert plain.rope_scaling is None
    assert plain.net.num_kv_heads is None
    for name in MODELS:
        config, rows = llama.read_config(saved[name][0])
        directory = saved[name][0]
        written = to_hf_config(config, rows, 128)
        again = transformers.LlamaConfig(**written)
        assert (
            again.rope_parameters
            == transformers.LlamaConfig.from_pretrained(directory).rope_parameters
        )


def test_keys_of_older_files_are_read(copy):
    scaling = LLAMA3["rope_parameters"] | {"type": "llama3"}
    theta = scaling.pop("rope_theta")
    scaling.pop("rope_type")
    config, _ = llama.read_config(
        copy(rope_parameters=None, rope_theta=theta, rope_scaling=scaling)
    )
    assert (config.rope_base, config.rope_scaling) == (500_000.0, RopeScaling(32.0, 1.0, 4.0, 16))


@pytest.mark.parametrize(
    "config",
    [
        SemanticLMConfig(TransformerConfig(32, 2, 4, 48), block="llama", norm_epsilon=1e-3),
        SemanticLMConfig(
            TransformerConfig(32, 2, 4, 48, num_kv_heads=1),
            block="llama",
            tie_embeddings=True,
            rope_base=300.0,
            rope_scaling=RopeScaling(4.0, 1.0, 3.0, 24),
        ),
    ],
    ids=["untied", "tied"],
)
def test_our_weights_load_in_transformers(config, tmp_path):
    params = _random_params(functools.partial(semantic_lm.init, config, V))
    shapes = {sharding.path_string(p): leaf for p, leaf in jax.tree.leaves_with_path(params)}
    tensors = {}
    for path, leaf in shapes.items():
        stacked = "/layers/" in path
        for layer in range(2) if stacked else (None,):
            one = leaf[layer] if stacked else leaf
            at = path.replace("layers/", f"layers/{layer}/") if stacked else path
            one = one.T if path.endswith("kernel") else one
            tensors[name_of(at)] = np.ascontiguousarray(one)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(to_hf_config(config, V, 128)))
    model, report = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    np.testing.assert_allclose(
        _logits(config, params, IDS), _torch_logits(model.eval(), IDS), atol=1e-4
    )
    back = loading.load(llama.LlamaSource(tmp_path)).params
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_other_blocks_have_no_llama_names():
    with pytest.raises(ConfigError, match=r"net/layers/0/attn/q_norm/scale .* 'llama'"):
        name_of("net/layers/0/attn/q_norm/scale")
    config = SemanticLMConfig(TransformerConfig(32, 2, 4, 48))
    with pytest.raises(ConfigError, match=r"model\.block"):
        to_hf_config(config, V, 128)


# Refusals

Q = "model.layers.1.self_attn.q_proj.weight"


def _drop(tensors):
    del tensors[Q]


def _add(tensors):
    tensors["model.layers.1.self_attn.q_proj.bias"] = np.zeros(32, np.float32)


def _reshape(tensors):
    tensors[Q] = np.ascontiguousarray(tensors[Q][:, :-1])


def _retype(tensors):
    tensors[Q] = tensors[Q].astype(np.int8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop, f"missing: {Q}"),
        (_add, r"not of this model: .*q_proj\.bias"),
        (_reshape, rf"{Q} is \(32, 31\), expected \(32, 32\)"),
        (_retype, f"{Q} is I8"),
    ],
)
def test_wrong_tensors_are_refused_by_name(copy, change, message):
    directory = copy()
    _edit(directory, change)
    with pytest.raises(UserError, match=message):
        llama.LlamaSource(directory)


def test_a_value_that_is_not_finite_is_refused_by_name(copy):
    directory = copy()
    _edit(directory, lambda tensors: tensors[Q].__setitem__((3, 4), np.nan))
    with pytest.raises(CheckpointError, match=f"{Q} holds NaN"):
        loading.load(llama.LlamaSource(directory))


def test_rope_frequencies_of_early_files_are_ignored(copy):
    directory = copy()
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    _edit(directory, lambda tensors: tensors.__setitem__(name, np.zeros(4, np.float32)))
    assert "head/kernel" in llama.LlamaSource(directory).shapes()


def test_pickles_are_refused(copy):
    directory = copy()
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: pickles"):
        llama.LlamaSource(directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_bias": True}, "attention_bias is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"head_dim": 16}, "head_dim is 16, only 8"),
        ({"model_type": "mistral"}, "model_type is 'mistral'"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "scaling 'yarn'"),
        ({"hidden_size": 30}, "do not divide"),
    ],
)
def test_other_architectures_are_refused(copy, changes, message):
    with pytest.raises(UserError, match=message):
        llama.LlamaSource(copy(**changes))


# Warm start

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
    logits = _logits(objective.model_config, params, ids)
    assert logits.shape[-1] == VOCABULARY.size == V - 1 + len(VOCABULARY.specials) + 20
    expected = _torch_logits(model, ids)[..., : V - 1]
    np.testing.assert_allclose(logits[..., : V - 1], expected, atol=1e-4)
    new = params["embed"]["embedding"][V - 1 :]
    old = params["embed"]["embedding"][: V - 1]
    assert (new.std(axis=0) > 0).all()
    np.testing.assert_allclose(new.mean(axis=0), old.mean(axis=0), atol=0.2 * old.std())
    assert logits[..., V - 1 :].max() < logits[..., : V - 1].max()  # no new id is likely


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
    params = _random_params(before.init)
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
    params = _random_params(_objective(saved).init)
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
    drawn = _random_params(objective.init)
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
