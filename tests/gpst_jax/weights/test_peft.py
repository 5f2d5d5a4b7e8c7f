"""Adapters stored separately: merging them gives the merged model, invalid ones are refused."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from data_pipeline.runtime.errors import UserError
from gpst_jax.models import lora
from gpst_jax.models.lora import LoraConfig
from gpst_jax.weights import loading, peft

CONFIG = LoraConfig(
    rank=3, alpha=5.0, targets=(r"mlp/up/kernel$", r"attn/q/kernel$"), trained=("semantic_head",)
)


@pytest.fixture
def adapted(stored, tmp_path):
    """A base, its merged parameters, and the directory of its adapters."""
    model = stored()
    adapters = lora.init_adapters(model.params, CONFIG, jax.random.key(0))
    rng = np.random.default_rng(0)
    adapters = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), adapters)
    head = model.params["semantic_head"]["kernel"] + 1
    params = dict(model.params) | {"semantic_head": {"kernel": head}}
    source = loading.open_source(model.workdir)
    peft.write_adapters(
        tmp_path / "adapters",
        peft.flat(adapters),
        {"semantic_head/kernel": np.asarray(head)},
        source.shapes(),
        CONFIG,
        source.description,
    )
    return source, lora.merge({"base": params, "lora": adapters}, CONFIG), tmp_path / "adapters"


def test_stored_adapters_give_the_merged_model(adapted):
    source, merged, directory = adapted
    found = loading.load(peft.AdaptedSource(source, directory))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found.params, merged)


def test_layout_is_that_of_peft(adapted):
    _, _, directory = adapted
    settings = json.loads((directory / "adapter_config.json").read_text())
    assert (settings["peft_type"], settings["r"], settings["lora_alpha"]) == ("LORA", 3, 5.0)
    assert "global_net.layers.1.attn.q" in settings["target_modules"]
    assert settings["modules_to_save"] == ["semantic_head"]
    tensors = safetensors.numpy.load_file(directory / "adapter_model.safetensors")
    prefix = "base_model.model.global_net.layers.1.mlp.up"
    assert tensors[f"{prefix}.lora_A.weight"].shape == (3, 16)  # (rank, in)
    assert tensors[f"{prefix}.lora_B.weight"].shape == (24, 3)  # (out, rank)


def test_short_module_names_match_suffixes(adapted):
    source, merged, directory = adapted
    path = directory / "adapter_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"target_modules": ["mlp.up", "q"]}))
    found = loading.load(peft.AdaptedSource(source, directory))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found.params, merged)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_modules": ["nowhere"]}, "the base has no module nowhere"),
        ({"r": 4}, r"lora_A\.weight is \(3, 16\), expected \(4, 16\)"),
        ({"target_modules": ["mlp.up"]}, "not of this model"),
        ({"peft_type": "IA3"}, "only plain LoRA"),
        ({"use_dora": True}, "only plain LoRA"),
    ],
)
def test_other_adapters_are_refused(adapted, changes, message):
    source, _, directory = adapted
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=message):
        peft.AdaptedSource(source, directory)


def test_a_pickle_is_refused(adapted):
    source, _, directory = adapted
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")
    with pytest.raises(UserError, match="pickles can execute code"):
        peft.AdaptedSource(source, directory)
