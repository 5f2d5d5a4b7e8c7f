"""Shared by the networks over frames: bidirectional attention, and layers under one scan.

A row is the frames of one segment, right-padded. Padding is masked for every valid frame, so that
the result of a row does not depend on its padding.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from gpst_jax.config import TransformerConfig
from gpst_jax.models import attention, splash_attention
from gpst_jax.models.rope import apply_rope, rope_angles
from gpst_jax.models.transformer import BlockConfig, apply_flat, make_norm, rematerialized
from gpst_jax.parallel import sharding
from gpst_jax.parallel.layer_loop import over_layers


class Frames(NamedTuple):
    """What every layer takes besides its input."""

    angles: jax.Array  # (1, T, D/H/2) RoPE angles of the frame indices
    valid: jax.Array | None = None  # (B, T) bool; None: every frame is valid
    time: jax.Array | None = None  # (B, D) embedding of the flow time, float32


def frame_context(config: TransformerConfig, rope_base: float, length: int, **fields) -> Frames:
    """The context of rows of `length` frames; RoPE takes the frame index as position."""
    indices = jnp.arange(length)[None]
    return Frames(rope_angles(indices, config.head_dim, rope_base), **fields)


class FrameAttention(nnx.Module):
    """Bidirectional multi-head self-attention with RoPE.

    The paper's block has a bias on the output only; the modern one has QK-norm and no biases.
    """

    def __init__(self, config: TransformerConfig, block_config: BlockConfig, *, rngs: nnx.Rngs):
        width = config.d_model
        self.num_heads, self.head_dim = config.num_heads, config.head_dim

        def linear(bias: bool) -> nnx.Linear:
            return make_linear(width, width, block_config, bias=bias, rngs=rngs)

        self.q, self.k, self.v = linear(False), linear(False), linear(False)
        self.out = linear(not block_config.modern)
        self.q_norm = make_norm(self.head_dim, block_config, rngs) if block_config.modern else None
        self.k_norm = make_norm(self.head_dim, block_config, rngs) if block_config.modern else None

    def __call__(self, x: jax.Array, frames: Frames) -> jax.Array:
        """(B, T, D) to (B, T, D)."""
        heads = (*x.shape[:-1], self.num_heads, self.head_dim)
        query, key, value = (apply_flat(f, x).reshape(heads) for f in (self.q, self.k, self.v))
        if self.q_norm is not None and self.k_norm is not None:
            query = self.q_norm(query).astype(x.dtype)
            key = self.k_norm(key).astype(x.dtype)
        query = apply_rope(query, frames.angles)
        key = apply_rope(key, frames.angles)
        if (
            x.shape[1] % splash_attention.LANES == 0
            and attention.resolve("auto", query) == "splash"
        ):
            segments = None if frames.valid is None else frames.valid.astype(jnp.int32)
            mixed = attention.attend(
                query, key, value, segment_ids=segments, causal=False, implementation="splash"
            )
        else:
            mixed = attention.attend(
                query, key, value, key_mask=frames.valid, causal=False, implementation="xla"
            )
        return apply_flat(self.out, mixed.reshape(x.shape))


class ScannedLayers(nnx.Module):
    """Layers of one kind under one scan.

    Args:
        make: builds a layer from its rngs; a layer maps (x, frames, skip=..., key=...) to x.
        count: number of layers.
        block_config: for the activation dtype and the rematerialisation policy.
        rngs: for the initial values.
    """

    def __init__(
        self,
        make: Callable[[nnx.Rngs], nnx.Module],
        count: int,
        block_config: BlockConfig,
        *,
        rngs: nnx.Rngs,
    ):
        self.count, self.dtype, self.remat = count, block_config.dtype, block_config.remat

        @nnx.split_rngs(splits=count)
        @nnx.vmap(in_axes=0, out_axes=0, transform_metadata={nnx.PARTITION_NAME: None})
        def build(rngs: nnx.Rngs) -> nnx.Module:
            return make(rngs)

        self.layers = build(rngs)

    def __call__(
        self,
        x: jax.Array,
        frames: Frames,
        *,
        skips: jax.Array | None = None,
        collect: bool = False,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Applies the layers in order.

        Args:
            x: (B, T, D).
            frames: RoPE angles, padding mask and flow time.
            skips: (count, B, T, D), the skip input of each layer.
            collect: whether to return the output of every layer.
            key: switches dropout on.

        Returns:
            The last output (B, T, D), and all of them (count, B, T, D) or None.
        """
        graph, params = nnx.split(self.layers)
        keys = None if key is None else jax.random.split(key, self.count)

        def body(x, layer):
            params, skip, key = layer
            kernels = sharding.gather_layer(nnx.to_pure_dict(params), self.dtype)
            nnx.replace_by_pure_dict(params, kernels)
            x = nnx.merge(graph, params)(x, frames, skip=skip, key=key)
            x = sharding.constrain(x, ("batch", "length", "embed"))
            return x, (x if collect else None)

        return over_layers(rematerialized(body, self.remat), x, (params, skips, keys))


def make_linear(
    fan_in: int,
    fan_out: int,
    block_config: BlockConfig,
    *,
    bias: bool = True,
    init: nnx.initializers.Initializer | None = None,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """A linear layer, initialised with variance 1 / fan_in unless `init` is given."""
    return nnx.Linear(
        fan_in,
        fan_out,
        use_bias=bias,
        kernel_init=init or nnx.initializers.normal(fan_in**-0.5),
        dtype=block_config.dtype,
        rngs=rngs,
    )
