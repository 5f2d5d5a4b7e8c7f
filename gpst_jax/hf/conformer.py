"""Conformer and DiT blocks over frames in torch (see gpst_jax/models/conformer.py and dit.py)."""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from gpst_jax.config.models import FlowConfig, TransformerConfig
from gpst_jax.hf.layers import Mlp, RMSNorm, apply_rope, make_norm, rope_angles

_MIN_VARIANCE = 1e-6
_TIME_FEATURES = 256


class Frames(NamedTuple):
    """What every layer takes besides its input."""

    angles: torch.Tensor  # (1, T, D/H/2) RoPE angles
    valid: torch.Tensor | None = None  # (B, T) bool
    time: torch.Tensor | None = None  # (B, D) embedding of the flow time


def frame_context(
    config: TransformerConfig,
    rope_base: float,
    length: int,
    device: torch.device,
    valid: torch.Tensor | None,
) -> Frames:
    """The context of rows of `length` frames."""
    indices = torch.arange(length, device=device)[None]
    return Frames(rope_angles(indices, config.head_dim, rope_base), valid)


class FrameAttention(nn.Module):
    """Bidirectional multi-head self-attention with RoPE."""

    def __init__(self, config: TransformerConfig, modern: bool, epsilon: float = 0.0):
        super().__init__()
        width, self.head_dim = config.d_model, config.head_dim
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width, bias=not modern)
        self.q_norm = RMSNorm(self.head_dim, epsilon) if modern else None
        self.k_norm = RMSNorm(self.head_dim, epsilon) if modern else None

    def forward(self, x: torch.Tensor, frames: Frames) -> torch.Tensor:
        """(B, T, D) to (B, T, D)."""
        query, key, value = (
            f(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for f in (self.q, self.k, self.v)
        )
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = apply_rope(query, frames.angles), apply_rope(key, frames.angles)
        mask = None if frames.valid is None else frames.valid[:, None, None, :]
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers with a Swish between them."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.up = nn.Linear(config.d_model, config.d_ff)
        self.down = nn.Linear(config.d_ff, config.d_model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, D) to (B, T, D)."""
        return self.down(functional.silu(self.up(x)))


class ConvModule(nn.Module):
    """Gated projection, depthwise convolution, channel norm, projection back."""

    def __init__(self, width: int, kernel: int):
        super().__init__()
        inner = 2 * width
        self.up, self.gate = nn.Linear(width, inner), nn.Linear(width, inner)
        self.taps = nn.Parameter(torch.randn(kernel, inner) * kernel**-0.5)
        self.taps_bias = nn.Parameter(torch.zeros(inner))
        self.channel_scale = nn.Parameter(torch.ones(inner))
        self.down = nn.Linear(inner, width)

    def forward(self, x: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        """(B, T, D) to (B, T, D); invalid frames are zeroed around the convolution."""
        keep = None if valid is None else valid[..., None]
        x = self.up(x) * self.gate(x).sigmoid()
        x = x if keep is None else x * keep
        kernel, inner = self.taps.shape
        taps = self.taps.T[:, None].contiguous()
        x = functional.conv1d(x.transpose(1, 2), taps, padding=kernel // 2, groups=inner)
        x = x.transpose(1, 2) + self.taps_bias
        x = functional.silu(x if keep is None else x * keep)
        y = x.float()
        y = y - y.mean(-1, keepdim=True)
        variance = y.square().mean(-1, keepdim=True).clamp(min=_MIN_VARIANCE)
        return self.down((y * variance.rsqrt() * self.channel_scale.float()).to(x.dtype))


class ConformerBlock(nn.Module):
    """One block; with `skip` it first projects its input and a skip input to one."""

    def __init__(self, config: TransformerConfig, kernel: int, skip: bool = False):
        super().__init__()
        width = config.d_model
        self.skip = nn.Linear(2 * width, width) if skip else None
        self.ff1_norm, self.ff1 = make_norm(width, False), FeedForward(config)
        self.attn_norm, self.attn = make_norm(width, False), FrameAttention(config, False)
        self.conv_norm, self.conv = make_norm(width, False), ConvModule(width, kernel)
        self.ff2_norm, self.ff2 = make_norm(width, False), FeedForward(config)
        self.post_norm = make_norm(width, False)

    def forward(
        self, x: torch.Tensor, frames: Frames, skip: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, T, D) to (B, T, D)."""
        if self.skip is not None and skip is not None:
            x = self.skip(torch.cat([x, skip], dim=-1))
        x = x + 0.5 * self.ff1(self.ff1_norm(x))
        x = x + self.attn(self.attn_norm(x), frames)
        x = x + self.conv(self.conv_norm(x), frames.valid)
        x = x + 0.5 * self.ff2(self.ff2_norm(x))
        return self.post_norm(x)


class Layers(nn.Module):
    """Layers below the name `layers`, as in the JAX parameters."""

    def __init__(self, layers: list[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)


class Conformer(nn.Module):
    """Conformer blocks in sequence."""

    def __init__(self, config: TransformerConfig, kernel: int):
        super().__init__()
        blocks = [ConformerBlock(config, kernel) for _ in range(config.num_layers)]
        self.stack = Layers(list(blocks))

    def forward(self, x: torch.Tensor, frames: Frames, t: torch.Tensor) -> torch.Tensor:
        """(B, T, D) to (B, T, D)."""
        for block in self.stack.layers:
            x = block(x, frames)
        return x


class UConformer(nn.Module):
    """Contracting, bottleneck and expanding blocks; skips connect the i-th and the i-th last."""

    def __init__(self, config: TransformerConfig, kernel: int):
        super().__init__()
        side = config.num_layers // 2 - (1 - config.num_layers % 2)

        def layers(count: int, skip: bool) -> Layers:
            return Layers([ConformerBlock(config, kernel, skip) for _ in range(count)])

        self.contracting = layers(side, False) if side else None
        self.bottleneck = layers(config.num_layers - 2 * side, False)
        self.expanding = layers(side, True) if side else None

    def forward(self, x: torch.Tensor, frames: Frames, t: torch.Tensor) -> torch.Tensor:
        """(B, T, D) to (B, T, D)."""
        skips = []
        for block in self.contracting.layers if self.contracting is not None else ():
            x = block(x, frames)
            skips.append(x)
        for block in self.bottleneck.layers:
            x = block(x, frames)
        for block in self.expanding.layers if self.expanding is not None else ():
            x = block(x, frames, skips.pop())
        return x


class DiTBlock(nn.Module):
    """Attention and feed-forward, each scaled, shifted and gated by the flow time."""

    def __init__(self, config: TransformerConfig, epsilon: float):
        super().__init__()
        width = config.d_model
        self.modulation = nn.Linear(width, 6 * width)
        self.attn_norm = RMSNorm(width, epsilon)
        self.attn = FrameAttention(config, True, epsilon)
        self.mlp_norm, self.mlp = RMSNorm(width, epsilon), Mlp(config, True)

    def forward(self, x: torch.Tensor, frames: Frames) -> torch.Tensor:
        """(B, T, D) to (B, T, D)."""
        parts = self.modulation(frames.time)[:, None].chunk(6, dim=-1)
        y = self.attn_norm(x) * (1 + parts[0]) + parts[1]
        x = x + self.attn(y, frames) * parts[2]
        y = self.mlp_norm(x) * (1 + parts[3]) + parts[4]
        return x + self.mlp(y) * parts[5]


class DiT(nn.Module):
    """Blocks and a final norm, all conditioned on the flow time (adaLN-zero)."""

    def __init__(self, config: TransformerConfig, time_scale: float, epsilon: float):
        super().__init__()
        width, self.time_scale = config.d_model, time_scale
        self.time_in, self.time_out = nn.Linear(_TIME_FEATURES, width), nn.Linear(width, width)
        self.stack = Layers([DiTBlock(config, epsilon) for _ in range(config.num_layers)])
        self.final_norm = RMSNorm(width, epsilon)
        self.final_modulation = nn.Linear(width, 2 * width)

    def forward(self, x: torch.Tensor, frames: Frames, t: torch.Tensor) -> torch.Tensor:
        """(B, T, D) at times t (B,) to (B, T, D)."""
        exponents = torch.linspace(0.0, -9.21, _TIME_FEATURES // 2, device=x.device)
        angles = self.time_scale * t[:, None] * exponents.exp()
        features = torch.cat([angles.sin(), angles.cos()], dim=-1).to(x.dtype)
        time = functional.silu(self.time_out(functional.silu(self.time_in(features))))
        frames = frames._replace(time=time)
        for block in self.stack.layers:
            x = block(x, frames)
        scale, shift = self.final_modulation(time)[:, None].chunk(2, dim=-1)
        return self.final_norm(x) * (1 + scale) + shift


def make_backbone(config: FlowConfig) -> nn.Module:
    """The backbone that the configuration names."""
    if config.backbone == "dit":
        return DiT(config.net, config.time_scale, config.norm_epsilon)
    kind = UConformer if config.backbone == "uconformer" else Conformer
    return kind(config.net, config.conv_kernel)
