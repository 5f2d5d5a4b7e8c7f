"""Reads Llama 2 and Llama 3 weights in transformers' layout, for a warm start from a text LM.

A directory holds `config.json` and `model.safetensors`, or several shards and their index. Tensors
are read one by one. Both implementations apply RoPE in the half-split layout, so queries and keys
need no permutation. `head/kernel` is `lm_head`, absent where embeddings are tied.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from data_pipeline.runtime.errors import UserError
from gpst_jax.config import ConfigError, RunConfig, SemanticLMConfig, TransformerConfig
from gpst_jax.config.models import RopeScaling
from gpst_jax.models import semantic_lm
from gpst_jax.parallel.sharding import path_string
from gpst_jax.weights.llama_names import name_of
from gpst_jax.weights.safetensors_source import (
    CONFIG_FILE,
    SECTION,
    SafetensorsSource,
    TensorFiles,
    read_json,
    refuse_pickles,
)
from gpst_jax.weights.sources import Description, Shapes
from gpst_jax.weights.tensors import Family, Tensor

# RoPE frequencies in early checkpoints; they follow from the configuration.
_DERIVED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")


def is_llama(directory: str | Path) -> bool:
    """Whether a directory holds a `llama` model of transformers that we did not export."""
    path = Path(directory) / CONFIG_FILE
    if not path.is_file():
        return False
    found = read_json(path)
    return found.get("model_type") == "llama" and SECTION not in found


def read_config(directory: str | Path) -> tuple[SemanticLMConfig, int]:
    """Architecture and vocabulary size (rows of the embedding table) of a Llama model.

    Raises:
        UserError: `config.json` is missing or describes an unsupported architecture; the message
            names the key.
    """
    path = Path(directory) / CONFIG_FILE
    found = read_json(path)

    def require(key: str, value: Any) -> None:
        if found.get(key, value) not in (value, None):
            raise UserError(f"{path}: {key} is {found[key]!r}, only {value!r} is supported")

    require("model_type", "llama")
    require("hidden_act", "silu")
    require("attention_bias", False)
    require("mlp_bias", False)
    try:
        net = TransformerConfig(
            d_model=found["hidden_size"],
            num_layers=found["num_hidden_layers"],
            num_heads=found["num_attention_heads"],
            d_ff=found["intermediate_size"],
            num_kv_heads=found.get("num_key_value_heads"),
        )
        require("head_dim", net.head_dim)
        base, scaling = _rope(path, found)
        config = SemanticLMConfig(
            net=_normal(net),
            block="llama",
            rope_base=base,
            rope_scaling=scaling,
            norm_epsilon=found["rms_norm_eps"],
            tie_embeddings=found.get("tie_word_embeddings", False),
        )
        return config, int(found["vocab_size"])
    except KeyError as error:
        raise UserError(f"{path}: the key {error} is missing") from error
    except (ConfigError, TypeError) as error:
        raise UserError(f"{path}: {error}") from error


def _rope(path: Path, found: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """RoPE base and scaling, from the keys of older or newer transformers versions."""
    rope = found.get("rope_parameters") or found.get("rope_scaling") or {}
    base = float(found.get("rope_theta") or rope.get("rope_theta") or 10_000.0)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return base, None
    if kind != "llama3":
        raise UserError(f"{path}: RoPE scaling {kind!r}; only 'llama3' or none is supported")
    scaling = RopeScaling(
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_max_positions=int(rope["original_max_position_embeddings"]),
    )
    return base, scaling


def _normal(net: TransformerConfig) -> TransformerConfig:
    """The same with `num_kv_heads` None for multi-head attention."""
    return dataclasses.replace(net, num_kv_heads=None) if net.kv_heads == net.num_heads else net


class LlamaSource(SafetensorsSource):
    """A Llama directory as a source of arrays, see `weights.sources`.

    Args:
        directory: with config.json and the weights.

    Raises:
        UserError: a file is missing or a pickle, the architecture is not supported, or tensors
            are missing, unexpected, or of another shape or dtype; the message names them.
    """

    def __init__(self, directory: str | Path):
        self.files, self._directory = None, Path(directory)
        refuse_pickles(self._directory)
        self.model, self.vocab_size = read_config(directory)
        self.description = Description(
            config=RunConfig(self._directory.name, self.model),
            dataset={},
            step=0,
            family="SemanticLMObjective",
            weights="parameters",
            code_version="",
            jax_version="",
        )
        tree = jax.eval_shape(
            lambda: semantic_lm.init(self.model, self.vocab_size, jax.random.key(0))
        )
        self._shapes: Shapes = {
            path_string(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)
        }
        family = Family("semantic_lm", "LlamaForCausalLM", "llama", name_of, lambda *_: {})
        self._tensors: dict[str, list[Tensor]] = {}
        for tensor in family.tensors(self._shapes):
            self._tensors.setdefault(tensor.path, []).append(tensor)
        self._files = TensorFiles(self._directory)
        derived = {
            name: self._files.shape(name) for name in self._files.names if _DERIVED.match(name)
        }
        expected = {t.name: t.shape for group in self._tensors.values() for t in group}
        self._files.check(expected | derived)

    def check_model(self, config: SemanticLMConfig) -> None:
        """Raises ConfigError, naming the field, unless a run's model has this architecture."""
        for name in ("net", "block", "rope_base", "rope_scaling", "norm_epsilon", "tie_embeddings"):
            wanted, found = getattr(config, name), getattr(self.model, name)
            wanted = _normal(wanted) if name == "net" else wanted
            if wanted != found:
                raise ConfigError(
                    f"config field model.{name}: {wanted}, but {self._directory} has {found}"
                )
