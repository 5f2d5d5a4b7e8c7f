"""The transformer of `gpst_jax.models.transformer` in torch, with the same parameters."""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from gpst_jax.config.models import TransformerConfig

KeysValues = tuple[torch.Tensor, torch.Tensor]  # KV cache of one layer, (B, H_kv, C, D/H) each


class AttentionContext(NamedTuple):
    """What every layer takes besides its input."""

    angles: torch.Tensor | None = None  # (B, L, D/H/2), None: no RoPE
    visible: torch.Tensor | None = None  # (B or 1, 1, L, C) bool attention mask


class LayerNorm(nn.Module):
    """LayerNorm with bias, in float32, epsilon 1e-5."""

    def __init__(self, width: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., D) to (..., D) in the dtype of x."""
        weight, bias = self.weight.float(), self.bias.float()
        return functional.layer_norm(x.float(), weight.shape, weight, bias, 1e-5).to(x.dtype)


class RMSNorm(nn.Module):
    """RMSNorm in float32."""

    def __init__(self, width: int, epsilon: float):
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., D) to (..., D) in the dtype of x."""
        weight = self.weight.float()
        return functional.rms_norm(x.float(), weight.shape, weight, self.epsilon).to(x.dtype)


def make_norm(width: int, modern: bool, epsilon: float = 0.0) -> nn.Module:
    """RMSNorm of that epsilon (modern), or LayerNorm with epsilon 1e-5."""
    return RMSNorm(width, epsilon) if modern else LayerNorm(width)


class Attention(nn.Module):
    """Causal self-attention, grouped-query where there are fewer key and value heads.

    Args:
        config: dimensions.
        modern: whether the block is `modern`; else `paper`.
        rope: whether there are learned query and key biases, added before RoPE.
        epsilon: of RMSNorm.
    """

    def __init__(self, config: TransformerConfig, modern: bool, rope: bool, epsilon: float):
        super().__init__()
        width, self.head_dim = config.d_model, config.head_dim
        narrow = config.kv_heads * self.head_dim
        self.q = nn.Linear(width, width, bias=not modern)
        self.k = nn.Linear(width, narrow, bias=not modern)
        self.v = nn.Linear(width, narrow, bias=not modern)
        self.out = nn.Linear(width, width, bias=not modern)
        self.q_norm = RMSNorm(self.head_dim, epsilon) if modern else None
        self.k_norm = RMSNorm(self.head_dim, epsilon) if modern else None
        heads = {"q_bias": config.num_heads, "k_bias": config.kv_heads}
        for name, count in heads.items():
            value = nn.Parameter(torch.zeros(count, self.head_dim)) if rope else None
            self.register_parameter(name, value)

    def forward(
        self, x: torch.Tensor, context: AttentionContext, past: KeysValues | None
    ) -> tuple[torch.Tensor, KeysValues]:
        """(B, L, D) to (B, L, D), and keys and values of the past and of x."""
        query, key, value = (
            f(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for f in (self.q, self.k, self.v)
        )
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        if self.q_bias is not None:
            query, key = query + self.q_bias[:, None], key + self.k_bias[:, None]
        if context.angles is not None:
            query, key = apply_rope(query, context.angles), apply_rope(key, context.angles)
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        mixed = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=context.visible,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return self.out(mixed.transpose(1, 2).flatten(2)), (key, value)


class Mlp(nn.Module):
    """Feed-forward: SwiGLU without biases (modern) or exact GELU with biases (paper)."""

    def __init__(self, config: TransformerConfig, modern: bool):
        super().__init__()
        width, inner = config.d_model, config.d_ff
        self.gate = nn.Linear(width, inner, bias=False) if modern else None
        self.up = nn.Linear(width, inner, bias=not modern)
        self.down = nn.Linear(inner, width, bias=not modern)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, L, D) to (B, L, D)."""
        if self.gate is not None:
            return self.down(functional.silu(self.gate(x)) * self.up(x))
        return self.down(functional.gelu(self.up(x)))


class Block(nn.Module):
    """One pre-norm block."""

    def __init__(self, config: TransformerConfig, modern: bool, rope: bool, epsilon: float):
        super().__init__()
        self.attn_norm = make_norm(config.d_model, modern, epsilon)
        self.attn = Attention(config, modern, rope, epsilon)
        self.mlp_norm = make_norm(config.d_model, modern, epsilon)
        self.mlp = Mlp(config, modern)

    def forward(
        self, x: torch.Tensor, context: AttentionContext, past: KeysValues | None = None
    ) -> tuple[torch.Tensor, KeysValues]:
        """(B, L, D) to (B, L, D), and keys and values of the past and of x."""
        mixed, present = self.attn(self.attn_norm(x), context, past)
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), present


class Transformer(nn.Module):
    """Blocks in sequence and the final norm."""

    def __init__(self, config: TransformerConfig, modern: bool, rope: bool, epsilon: float):
        super().__init__()
        self.config = config
        blocks = (Block(config, modern, rope, epsilon) for _ in range(config.num_layers))
        self.layers = nn.ModuleList(blocks)
        self.final_norm = make_norm(config.d_model, modern, epsilon)

    def forward(
        self, x: torch.Tensor, context: AttentionContext, past: list[KeysValues] | None = None
    ) -> tuple[torch.Tensor, list[KeysValues]]:
        """(B, L, D) to (B, L, D), and each layer's keys and values of the past and of x."""
        present = []
        for layer, block in enumerate(self.layers):
            x, keys_values = block(x, context, past[layer] if past else None)
            present.append(keys_values)
        return self.final_norm(x), present


def cross_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    mask: torch.Tensor,
    smoothing: float,
    z_loss: float,
) -> torch.Tensor:
    """Mean label-smoothed loss where the mask (...) holds, 0 where it holds nowhere, as in JAX.

    Args:
        logits: (..., C).
        targets: (...) classes of any integer type; ignored outside the mask.
        mask: (...) bool.
        smoothing: share of the loss that is uniform over the classes.
        z_loss: coefficient of the squared log-normaliser of each prediction.
    """
    classes = targets[mask].long()  # torch takes targets of no other type
    total = functional.cross_entropy(
        logits[mask].float(), classes, label_smoothing=smoothing, reduction="sum"
    )
    if z_loss:
        total = total + z_loss * logits[mask].float().logsumexp(-1).square().sum()
    return total / max(len(classes), 1)


def causal(length: int, past: int, device: torch.device) -> torch.Tensor:
    """The causal mask of `length` positions after `past` ones, (1, 1, length, past + length)."""
    keys = torch.arange(past + length, device=device)
    return (keys[None] <= keys[past:, None])[None, None]


def rope_angles(
    positions: torch.Tensor, head_dim: int, base: float, time_scale: float = 1.0
) -> torch.Tensor:
    """RoPE angles (B, L, head_dim / 2) float32 of positions (B, L)."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device)
    return (time_scale * positions.float())[..., None] * base ** (-exponents / head_dim)


def apply_rope(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Applies RoPE (half-split layout) to x (B, H, L, D/H) at `angles` (B, L, D/H/2)."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    rotated = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return rotated.to(x.dtype)
