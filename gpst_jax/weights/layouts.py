"""Tensor names and layouts of each model family outside JAX.

Layers, stacked along a leading axis in JAX, become separate tensors. Kernels are transposed from
(in, out) to (out, in), as in torch's linear layers. Everything else is unchanged.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from data_pipeline.tokens.vocabulary import Vocabulary
from gpst_jax.config import ConfigError, GPSTConfig, ModelConfig, RunConfig, SemanticLMConfig
from gpst_jax.weights.llama_names import name_of, to_hf_config
from gpst_jax.weights.tensors import Family

_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight"}


def plain_name(path: str) -> str:
    """`global_net/layers/0/attn/q/kernel` as `global_net.layers.0.attn.q.weight`."""
    *parents, leaf = path.split("/")
    return ".".join([*parents, _LEAVES.get(leaf, leaf)])


def _speech_config(
    config: RunConfig, dataset: Mapping[str, Any], shapes: Mapping[str, Any]
) -> dict[str, Any]:
    """config.json of a model of units and codes: model, vocabulary sizes, rates, positions."""
    semantic, codec = dataset["semantic"], dataset["codec"]
    return {
        "model": dataclasses.asdict(config.model),
        "layout": {
            "num_units": semantic["vocab_size"],
            "num_codebooks": codec["num_codebooks"],
            "codebook_size": codec["codebook_size"],
            "unit_rate": semantic["frame_rate"],
            "frame_rate": codec["frame_rate"],
        },
        "positions": config.data.positions,
        "deduplicate": config.data.deduplicate,
    }


def _vocabulary_config(
    config: RunConfig, dataset: Mapping[str, Any], shapes: Mapping[str, Any]
) -> dict[str, Any]:
    """config.json of a language model of text and units: model and vocabulary."""
    vocabulary = _vocabulary(dataset)
    return {
        "model": dataclasses.asdict(config.model),
        "vocab_size": vocabulary.size,
        "vocabulary": dataclasses.asdict(vocabulary),
    }


def _llama_config(
    config: RunConfig, dataset: Mapping[str, Any], shapes: Mapping[str, Any]
) -> dict[str, Any]:
    """The same in transformers' keys for Llama, so that `LlamaForCausalLM` loads it."""
    vocabulary = _vocabulary(dataset)
    return to_hf_config(
        config.model_as(SemanticLMConfig), vocabulary.size, config.data.sequence_length
    ) | {
        "bos_token_id": None,
        "eos_token_id": vocabulary.end,
        "pad_token_id": vocabulary.padding,
        "vocabulary": dataclasses.asdict(vocabulary),
    }


def _flow_config(
    config: RunConfig, dataset: Mapping[str, Any], shapes: Mapping[str, Any]
) -> dict[str, Any]:
    """config.json of flow matching: also the width of the latents."""
    width = shapes["codebooks/embedding"].shape[-1]
    return _speech_config(config, dataset, shapes) | {"latent_size": width}


def _vocabulary(dataset: Mapping[str, Any]) -> Vocabulary:
    fields = dict(dataset["vocabulary"])
    return Vocabulary(**fields | {"specials": tuple(fields["specials"])})


_LLAMA = Family("semantic_lm", "LlamaForCausalLM", "llama", name_of, _llama_config)
# The torch class of GPST has a local transformer.
_OTHER_PATTERN = Family("gpst", None, "gpst_pattern", plain_name, _speech_config)
_FAMILIES = {
    "gpst": Family("gpst", "GPSTForSpeech", "gpst", plain_name, _speech_config),
    "semantic_lm": Family(
        "semantic_lm", "SemanticLM", "gpst_semantic_lm", plain_name, _vocabulary_config
    ),
    "flow": Family("flow", "FlowForSpeech", "gpst_flow", plain_name, _flow_config),
    "soundstorm": Family("soundstorm", None, "gpst_soundstorm", plain_name, _speech_config),
}


def get_family(model: ModelConfig) -> Family:
    """The family of a model config; a language model with Llama's block is a Llama.

    Raises:
        ConfigError: models of this family cannot be exported.
    """
    if isinstance(model, SemanticLMConfig) and model.block == "llama":
        return _LLAMA
    if isinstance(model, GPSTConfig) and model.pattern != "hierarchical":
        return _OTHER_PATTERN
    if model.family not in _FAMILIES:
        raise ConfigError(
            f"config field model.family: {model.family!r} cannot be exported, only "
            f"{', '.join(_FAMILIES)}"
        )
    return _FAMILIES[model.family]
