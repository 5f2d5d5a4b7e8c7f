"""A diffusion transformer (DiT, arXiv 2212.09748) over frames, with the `modern` block.

RMSNorm, SwiGLU, RoPE and QK-norm; the flow time scales, shifts and gates every residual branch
(adaLN-zero), so that each block is the identity at initialisation.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from gpst_jax.config import TransformerConfig
from gpst_jax.models.bidirectional import FrameAttention, Frames, ScannedLayers, make_linear
from gpst_jax.models.transformer import BlockConfig, Mlp, dropout, make_norm

_TIME_FEATURES = 256


class DiTBlock(nnx.Module):
    """Attention and feed-forward, each scaled, shifted and gated by the flow time."""

    def __init__(self, config: TransformerConfig, block_config: BlockConfig, *, rngs: nnx.Rngs):
        width = config.d_model
        self.modulation = _zero_linear(width, 6 * width, rngs)
        self.attn_norm = make_norm(width, block_config, rngs)
        self.attn = FrameAttention(config, block_config, rngs=rngs)
        self.mlp_norm = make_norm(width, block_config, rngs)
        self.mlp = Mlp(config, block_config, rngs=rngs)
        self.dropout = block_config.dropout

    def __call__(
        self,
        x: jax.Array,
        frames: Frames,
        *,
        skip: None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """(B, T, D) to (B, T, D)."""
        keys = [None] * 2 if key is None else list(jax.random.split(key))
        parts = _modulation(self.modulation, frames, 6)
        y = _modulated(self.attn_norm, x, parts[0], parts[1])
        x = x + _gated(dropout(self.attn(y, frames), self.dropout, keys[0]), parts[2])
        y = _modulated(self.mlp_norm, x, parts[3], parts[4])
        return x + _gated(dropout(self.mlp(y), self.dropout, keys[1]), parts[5])


class DiT(nnx.Module):
    """Blocks and a final norm, all conditioned on the flow time (adaLN-zero).

    Args:
        config: dimensions.
        block_config: variant of the block.
        time_scale: flow times in [0, 1] are multiplied by it before their sinusoidal embedding.
        rngs: for the initial values.
    """

    def __init__(
        self,
        config: TransformerConfig,
        block_config: BlockConfig,
        time_scale: float,
        *,
        rngs: nnx.Rngs,
    ):
        width, self.time_scale = config.d_model, time_scale

        def make(rngs):
            return DiTBlock(config, block_config, rngs=rngs)

        float32_config = block_config._replace(dtype=jnp.dtype(jnp.float32))
        self.time_in = make_linear(_TIME_FEATURES, width, float32_config, rngs=rngs)
        self.time_out = make_linear(width, width, float32_config, rngs=rngs)
        self.stack = ScannedLayers(make, config.num_layers, block_config, rngs=rngs)
        self.final_norm = make_norm(width, block_config, rngs)
        self.final_modulation = _zero_linear(width, 2 * width, rngs)

    def __call__(
        self, x: jax.Array, frames: Frames, t: jax.Array, *, key: jax.Array | None = None
    ) -> jax.Array:
        """(B, T, D) at times t (B,) to (B, T, D); a key switches dropout on."""
        frequencies = jnp.exp(jnp.linspace(0.0, -9.21, _TIME_FEATURES // 2))  # 1 to 1e-4
        angles = self.time_scale * t[:, None] * frequencies[None]
        features = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        time = jax.nn.silu(self.time_out(jax.nn.silu(self.time_in(features))))
        frames = frames._replace(time=time)
        x, _ = self.stack(x, frames, key=key)
        return _modulated(self.final_norm, x, *_modulation(self.final_modulation, frames, 2))


def _zero_linear(fan_in: int, fan_out: int, rngs: nnx.Rngs) -> nnx.Linear:
    """A float32 linear layer, initialised to zero."""
    return nnx.Linear(fan_in, fan_out, kernel_init=nnx.initializers.zeros, rngs=rngs)


def _modulation(linear: nnx.Linear, frames: Frames, count: int) -> list[jax.Array]:
    assert frames.time is not None
    return jnp.split(linear(frames.time)[:, None], count, axis=-1)


def _modulated(norm: nnx.Module, x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    return (norm(x) * (1.0 + scale) + shift).astype(x.dtype)


def _gated(x: jax.Array, gate: jax.Array) -> jax.Array:
    return (x * gate).astype(x.dtype)
