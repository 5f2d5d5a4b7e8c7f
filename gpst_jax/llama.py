"""Weights of Llama 2 and Llama 3 in transformers' layout: a language model of text to begin from.

A directory holds `config.json` and `model.safetensors`, or several files and their index. Tensors
are read one by one. Both use the same halves of a head for rotary positions, so nothing is
permuted. `head/kernel` is `lm_head`, absent where the embedding table is also the output matrix.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from data_pipeline import cli
from gpst_jax import semantic_lm
from gpst_jax.config import ConfigError, RunConfig, SemanticLMConfig, TransformerConfig
from gpst_jax.export.families import Family, Tensor
from gpst_jax.export.safetensors_source import (
    CONFIG_FILE,
    SECTION,
    SafetensorsSource,
    TensorFiles,
    read_json,
    refuse_pickles,
)
from gpst_jax.export.sources import Description, Shapes, read_whole
from gpst_jax.model_config import RopeScaling
from gpst_jax.sharding import path_string

_NAMES = {
    "embed/embedding": "model.embed_tokens.weight",
    "head/kernel": "lm_head.weight",
    "net/final_norm/scale": "model.norm.weight",
}
_LAYER_NAMES = {
    "attn/q/kernel": "self_attn.q_proj.weight",
    "attn/k/kernel": "self_attn.k_proj.weight",
    "attn/v/kernel": "self_attn.v_proj.weight",
    "attn/out/kernel": "self_attn.o_proj.weight",
    "attn_norm/scale": "input_layernorm.weight",
    "mlp/gate/kernel": "mlp.gate_proj.weight",
    "mlp/up/kernel": "mlp.up_proj.weight",
    "mlp/down/kernel": "mlp.down_proj.weight",
    "mlp_norm/scale": "post_attention_layernorm.weight",
}
_IN_LAYER = re.compile(r"net/layers/(\d+)/(.+)")
# Early files hold the frequencies of rotary positions, which follow from the configuration.
_DERIVED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")


def name_of(path: str) -> str:
    """`net/layers/0/attn/q/kernel` as `model.layers.0.self_attn.q_proj.weight`.

    Raises:
        ConfigError: Llama has no such array, as of the `modern` block.
    """
    inside = _IN_LAYER.fullmatch(path)
    if inside and inside[2] in _LAYER_NAMES:
        return f"model.layers.{inside[1]}.{_LAYER_NAMES[inside[2]]}"
    if path not in _NAMES:
        raise ConfigError(
            f"{path} is no array of a Llama model: only models with model.block 'llama' are"
        )
    return _NAMES[path]


def to_hf_config(config: SemanticLMConfig, vocab_size: int, max_positions: int) -> dict[str, Any]:
    """What transformers' `config.json` says of the architecture; the inverse of `read_config`.

    Raises:
        ConfigError: the block is not Llama's.
    """
    if config.block != "llama":
        raise ConfigError(f"config field model.block: {config.block!r} is not that of Llama")
    net, rope = config.net, {"rope_type": "default", "rope_theta": config.rope_base}
    if config.rope_scaling is not None:
        scaling = config.rope_scaling
        rope |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_positions,
        }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": net.d_model,
        "intermediate_size": net.d_ff,
        "num_hidden_layers": net.num_layers,
        "num_attention_heads": net.num_heads,
        "num_key_value_heads": net.kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_epsilon,
        "rope_parameters": rope,
        "rope_theta": config.rope_base,
        "rope_scaling": rope if config.rope_scaling is not None else None,
        "max_position_embeddings": max_positions,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
        "vocab_size": vocab_size,
    }


def is_llama(directory: str | Path) -> bool:
    """Whether a directory holds a model of transformers' type `llama`, and not one of ours."""
    path = Path(directory) / CONFIG_FILE
    if not path.is_file():
        return False
    found = read_json(path)
    return found.get("model_type") == "llama" and SECTION not in found


def read_config(directory: str | Path) -> tuple[SemanticLMConfig, int]:
    """Architecture and rows of the embedding table of a Llama model.

    Raises:
        UserError: there is no `config.json`, or it is of a model that is built otherwise; the
            message names the key.
    """
    path = Path(directory) / CONFIG_FILE
    found = read_json(path)

    def same(key: str, value: Any) -> None:
        if found.get(key, value) not in (value, None):
            raise cli.UserError(f"{path}: {key} is {found[key]!r}, only {value!r} is known here")

    same("model_type", "llama")
    same("hidden_act", "silu")
    same("attention_bias", False)
    same("mlp_bias", False)
    try:
        net = TransformerConfig(
            d_model=found["hidden_size"],
            num_layers=found["num_hidden_layers"],
            num_heads=found["num_attention_heads"],
            d_ff=found["intermediate_size"],
            num_kv_heads=found.get("num_key_value_heads"),
        )
        same("head_dim", net.head_dim)
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
        raise cli.UserError(f"{path}: the key {error} is missing") from error
    except (ConfigError, TypeError) as error:
        raise cli.UserError(f"{path}: {error}") from error


def _rope(path: Path, found: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Base and scaling, under the keys of old and of new files."""
    rope = found.get("rope_parameters") or found.get("rope_scaling") or {}
    base = float(found.get("rope_theta") or rope.get("rope_theta") or 10_000.0)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return base, None
    if kind != "llama3":
        raise cli.UserError(f"{path}: rotary scaling {kind!r}; 'llama3' and none are known here")
    scaling = RopeScaling(
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_max_positions=int(rope["original_max_position_embeddings"]),
    )
    return base, scaling


def _normal(net: TransformerConfig) -> TransformerConfig:
    """The same with `num_kv_heads` absent where every head has its own keys."""
    return dataclasses.replace(net, num_kv_heads=None) if net.kv_heads == net.num_heads else net


class LlamaSource(SafetensorsSource):
    """A Llama directory as a source of arrays, see `export.sources`.

    Args:
        directory: with config.json and the weights.

    Raises:
        UserError: a file is missing or a pickle, the architecture is another, or tensors are
            missing, too many, of another shape or dtype; the message names them.
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
        """Raises ConfigError unless a run's model is built like this one; names the field."""
        for name in ("net", "block", "rope_base", "rope_scaling", "norm_epsilon", "tie_embeddings"):
            wanted, found = getattr(config, name), getattr(self.model, name)
            wanted = _normal(wanted) if name == "net" else wanted
            if wanted != found:
                raise ConfigError(
                    f"config field model.{name}: {wanted} is not the {found} of {self._directory}"
                )


def global_net(source: LlamaSource, draw: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """GPST's global transformer from Llama's (arXiv 2305.13009): an `initial` for `train.train`.

    Taken are the matrices of attention and feed-forward, the norms before them and the final norm.
    Not taken, but drawn: embeddings, heads and the local network, which are of other tokens, and
    what Llama does not have, the norms and biases of queries and keys.

    Args:
        source: of Llama; widths, heads and layers must be those of `global_net`.
        draw: gives fresh parameters from their shapes and shardings.

    Returns:
        A function of the shapes and shardings; it raises ConfigError where the sizes differ.
    """
    taken = {
        path.replace("net/", "global_net/", 1): path
        for path in source.shapes()
        if path.startswith("net/")
    }

    def initial(abstract: Any) -> Any:
        wanted = {path_string(path): leaf for path, leaf in jax.tree.leaves_with_path(abstract)}
        for path, own in taken.items():
            found, shape = source.shapes()[own].shape, getattr(wanted.get(path), "shape", None)
            if shape != found:
                raise ConfigError(
                    f"config field model.global_net: {path} is {shape}, in "
                    f"{source.description.config.name} it is {found}; a warm start needs the block "
                    f"'modern' and {source.model.net}"
                )

        def choose(key_path: Any, leaf: Any, drawn: Any) -> Any:
            own = taken.get(path_string(key_path))
            if own is None:
                return drawn
            return jax.device_put(read_whole(source, own).astype(leaf.dtype), leaf.sharding)

        return jax.tree.map_with_path(choose, abstract, draw(abstract))

    return initial
