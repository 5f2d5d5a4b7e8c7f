"""transformers' tensor names and configuration keys of a Llama model."""

import re
from typing import Any

from gpst_jax.config import ConfigError, SemanticLMConfig

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


def name_of(path: str) -> str:
    """`net/layers/0/attn/q/kernel` as `model.layers.0.self_attn.q_proj.weight`.

    Raises:
        ConfigError: Llama has no such array; models of the `modern` block do.
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
    """The architecture as transformers' `config.json`; the inverse of `read_config`.

    Raises:
        ConfigError: the block is not Llama's.
    """
    if config.block != "llama":
        raise ConfigError(f"config field model.block: {config.block!r} is not the block of Llama")
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
