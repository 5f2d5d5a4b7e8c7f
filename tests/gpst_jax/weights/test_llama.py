"""Llama weights: logits agree with transformers in both directions, and warm starts from them."""

import functools
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_llama import IDS, LLAMA3, MODELS, V, logits, random_params, torch_logits

from data_pipeline.runtime.errors import UserError
from gpst_jax.checkpoints.record import CheckpointError
from gpst_jax.config import (
    ConfigError,
    SemanticLMConfig,
    TransformerConfig,
)
from gpst_jax.config.models import RopeScaling
from gpst_jax.models import semantic_lm
from gpst_jax.parallel import sharding
from gpst_jax.weights import llama, loading
from gpst_jax.weights.llama_names import name_of, to_hf_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


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


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name, saved):
    directory, model = saved[name]
    assert len(list(directory.glob("*.safetensors"))) == (1 if name == "llama2" else 4)
    source = llama.LlamaSource(directory)
    params = loading.load(source).params
    expected = torch_logits(model, IDS)
    found = logits(source.model, params, IDS)
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
    params = random_params(functools.partial(semantic_lm.init, config, V))
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
        logits(config, params, IDS), torch_logits(model.eval(), IDS), atol=1e-4
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
