"""Conformer (arXiv 2005.08100) and U-Conformer, which adds U-Net skip connections.

The backbones of the perceptual stage (arXiv 2401.13527) and of SoundStorm, as in their official
code. A block is a half-step feed-forward, self-attention, a convolution module, another half-step
feed-forward and a norm.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from gpst_jax.config import TransformerConfig
from gpst_jax.models.bidirectional import FrameAttention, Frames, ScannedLayers, make_linear
from gpst_jax.models.transformer import BlockConfig, apply_flat, dropout, make_norm

_WINDOW = 32  # output frames per block in the gradient of the convolution
_MIN_VARIANCE = 1e-6  # clamp of the channel norm


class FeedForward(nnx.Module):
    """Two linear layers with a Swish between them."""

    def __init__(self, config: TransformerConfig, block_config: BlockConfig, *, rngs: nnx.Rngs):
        self.up = make_linear(config.d_model, config.d_ff, block_config, rngs=rngs)
        self.down = make_linear(config.d_ff, config.d_model, block_config, rngs=rngs)
        self.dropout = block_config.dropout

    def __call__(self, x: jax.Array, key: jax.Array | None) -> jax.Array:
        """(B, T, D) to (B, T, D)."""
        return apply_flat(
            self.down, dropout(jax.nn.silu(apply_flat(self.up, x)), self.dropout, key)
        )


class ConvModule(nnx.Module):
    """Gated projection to 2 D channels, depthwise convolution, channel norm, projection to D."""

    def __init__(
        self, config: TransformerConfig, block_config: BlockConfig, kernel: int, *, rngs: nnx.Rngs
    ):
        width, inner = config.d_model, 2 * config.d_model
        self.up = make_linear(width, inner, block_config, rngs=rngs)
        self.gate = make_linear(width, inner, block_config, rngs=rngs)
        init = nnx.initializers.normal(kernel**-0.5)
        self.taps = nnx.Param(init(rngs.params(), (kernel, inner), jnp.float32))
        self.taps_bias = nnx.Param(jnp.zeros(inner))
        self.channel_scale = nnx.Param(jnp.ones(inner))
        self.down = make_linear(inner, width, block_config, rngs=rngs)

    def __call__(self, x: jax.Array, valid: jax.Array | None) -> jax.Array:
        """(B, T, D) to (B, T, D); invalid frames are zeroed around the convolution."""

        def masked(x):
            return x if valid is None else jnp.where(valid[..., None], x, 0)

        x = masked(apply_flat(self.up, x) * jax.nn.sigmoid(apply_flat(self.gate, x)))
        x = depthwise(x, self.taps[...].astype(x.dtype))
        x = jax.nn.silu(masked(x + self.taps_bias[...].astype(x.dtype)[None, None]))
        y = x.astype(jnp.float32)
        y = y - y.mean(axis=-1, keepdims=True)
        variance = jnp.square(y).mean(axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.maximum(variance, _MIN_VARIANCE))
        return apply_flat(self.down, (y * self.channel_scale[...][None, None]).astype(x.dtype))


class ConformerBlock(nnx.Module):
    """One block; with `skip` it first projects its input and a skip input to one."""

    def __init__(
        self,
        config: TransformerConfig,
        block_config: BlockConfig,
        kernel: int,
        *,
        skip: bool = False,
        rngs: nnx.Rngs,
    ):
        width = config.d_model
        self.skip = make_linear(2 * width, width, block_config, rngs=rngs) if skip else None
        self.ff1_norm = make_norm(width, block_config, rngs)
        self.ff1 = FeedForward(config, block_config, rngs=rngs)
        self.attn_norm = make_norm(width, block_config, rngs)
        self.attn = FrameAttention(config, block_config, rngs=rngs)
        self.conv_norm = make_norm(width, block_config, rngs)
        self.conv = ConvModule(config, block_config, kernel, rngs=rngs)
        self.ff2_norm = make_norm(width, block_config, rngs)
        self.ff2 = FeedForward(config, block_config, rngs=rngs)
        self.post_norm = make_norm(width, block_config, rngs)
        self.dropout = block_config.dropout

    def __call__(
        self,
        x: jax.Array,
        frames: Frames,
        *,
        skip: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """(B, T, D), and a skip input of that shape where the block has one, to (B, T, D)."""
        keys = [None] * 6 if key is None else list(jax.random.split(key, 6))
        if self.skip is not None:
            assert skip is not None
            x = apply_flat(self.skip, jnp.concatenate([x, skip], axis=-1))

        def normed(norm, x):
            return norm(x).astype(x.dtype)

        def dropped(x, key):
            return dropout(x, self.dropout, key)

        x = x + 0.5 * dropped(self.ff1(normed(self.ff1_norm, x), keys[0]), keys[1])
        x = x + dropped(self.attn(normed(self.attn_norm, x), frames), keys[2])
        x = x + dropped(self.conv(normed(self.conv_norm, x), frames.valid), keys[3])
        x = x + 0.5 * dropped(self.ff2(normed(self.ff2_norm, x), keys[4]), keys[5])
        return normed(self.post_norm, x)


class Conformer(nnx.Module):
    """Conformer blocks in sequence."""

    def __init__(
        self, config: TransformerConfig, block_config: BlockConfig, kernel: int, *, rngs: nnx.Rngs
    ):
        def make(rngs):
            return ConformerBlock(config, block_config, kernel, rngs=rngs)

        self.stack = ScannedLayers(make, config.num_layers, block_config, rngs=rngs)

    def __call__(self, x: jax.Array, frames: Frames, *, key: jax.Array | None = None) -> jax.Array:
        """(B, T, D) to (B, T, D); a key switches dropout on."""
        return self.stack(x, frames, key=key)[0]


class UConformer(nnx.Module):
    """Contracting, bottleneck and expanding blocks; skips connect the i-th and the i-th last block.

    No block changes the frame rate: contracting and expanding only name the ends of the skips.
    """

    def __init__(
        self, config: TransformerConfig, block_config: BlockConfig, kernel: int, *, rngs: nnx.Rngs
    ):
        side, middle = split_depth(config.num_layers)

        def layers(count: int, skip: bool) -> ScannedLayers:
            def make(rngs):
                return ConformerBlock(config, block_config, kernel, skip=skip, rngs=rngs)

            return ScannedLayers(make, count, block_config, rngs=rngs)

        self.contracting = layers(side, False) if side else None
        self.bottleneck = layers(middle, False)
        self.expanding = layers(side, True) if side else None

    def __call__(self, x: jax.Array, frames: Frames, *, key: jax.Array | None = None) -> jax.Array:
        """(B, T, D) to (B, T, D); a key switches dropout on."""
        keys = [None] * 3 if key is None else list(jax.random.split(key, 3))
        skips = None
        if self.contracting is not None:
            x, skips = self.contracting(x, frames, collect=True, key=keys[0])
        x, _ = self.bottleneck(x, frames, key=keys[1])
        if self.expanding is not None and skips is not None:
            x, _ = self.expanding(x, frames, skips=skips[::-1], key=keys[2])
        return x


def split_depth(num_layers: int) -> tuple[int, int]:
    """Blocks per side and in the bottleneck of a U-Conformer: 12 gives 5 and 2, 5 gives 2 and 1."""
    side = num_layers // 2 - (1 - num_layers % 2)
    return side, num_layers - 2 * side


@jax.custom_vjp
def depthwise(x: jax.Array, taps: jax.Array) -> jax.Array:
    """Depthwise convolution: y[n] = sum over j of taps[j] x[n + j - K // 2] in each channel.

    Shifted multiply-adds, which compilers fuse into one loop. XLA's grouped convolution is 30 times
    slower on CPUs, and its gradient 20 times slower than the one below.

    Args:
        x: (B, T, C), padded with zeros.
        taps: (K, C), K odd.

    Returns:
        (B, T, C).
    """
    kernel, length = len(taps), x.shape[1]
    padded = jnp.pad(x, ((0, 0), (kernel // 2, kernel // 2), (0, 0)))
    shifted = (padded[:, j : j + length] * taps[j][None, None] for j in range(kernel))
    return functools.reduce(jnp.add, shifted)


def _depthwise_forward(x, taps):
    return depthwise(x, taps), (x, taps)


def _depthwise_backward(saved, grad):
    """Computes the gradient of the taps from matrix products of windows.

    In a window of S outputs and S + K - 1 inputs the products of output s with input s + j belong
    to tap j: diagonals of one matrix for each channel.
    """
    x, taps = saved
    (rows, length, channels), kernel = x.shape, len(taps)
    count = -(-length // _WINDOW)
    wide, extra = _WINDOW + kernel - 1, count * _WINDOW - length
    inputs = jnp.pad(x, ((0, 0), (kernel // 2, kernel // 2 + extra), (0, 0)))
    windows = jnp.stack([inputs[:, i * _WINDOW : i * _WINDOW + wide] for i in range(count)], 1)
    outputs = jnp.pad(grad, ((0, 0), (0, extra), (0, 0)))
    outputs = outputs.reshape(rows, count, _WINDOW, channels)
    products = jnp.einsum("biwc,bisc->csw", windows, outputs, preferred_element_type=jnp.float32)
    diagonals = (products[:, s, s : s + kernel] for s in range(_WINDOW))
    gradient = functools.reduce(jnp.add, diagonals).T
    return depthwise(grad, taps[::-1]), gradient.astype(taps.dtype)


depthwise.defvjp(_depthwise_forward, _depthwise_backward)
