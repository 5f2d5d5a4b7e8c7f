"""The decoder-only transformer of GPST's global and local networks and of the semantic LM.

Modules are Flax NNX and are split once into a graph definition and a plain tree of arrays. The
parameters of all layers are stacked along a leading axis and scanned, so that compile time does not
grow with depth (`gpst_jax.parallel.layer_loop`); `gpst_jax.models.decoding` decodes with a cache.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from gpst_jax.config import ConfigError, TransformerConfig
from gpst_jax.models import activations, attention, splash_attention
from gpst_jax.models.rope import apply_rope
from gpst_jax.parallel import sharding
from gpst_jax.parallel.layer_loop import over_layers

Initializer = nnx.initializers.Initializer


class AttentionContext(NamedTuple):
    """What every layer takes besides its input."""

    angles: jax.Array | None = None  # (B, L, D/H/2) RoPE angles; None: no RoPE
    segment_ids: jax.Array | None = None  # (B, L); None: a row is one segment
    positions_first: bool = False  # x is (L, B, D), see `attention.attend_short_rows`


class BlockConfig(NamedTuple):
    """Variant of a block: as published for GPST (`paper`) or Llama (`llama`), or `modern`."""

    name: str
    dtype: jnp.dtype
    dropout: float = 0.0
    attention: str = "auto"
    remat: str = "none"
    rope: bool = False  # learned query and key biases, added before RoPE
    epsilon: float = 1e-6  # of RMSNorm; LayerNorm (paper) has 1e-5

    @property
    def modern(self) -> bool:
        """Whether the block is Llama's with QK-norm."""
        return self.name == "modern"

    @property
    def paper(self) -> bool:
        """Whether the block has LayerNorm, GELU and biases; else RMSNorm, SwiGLU and none."""
        return self.name == "paper"

    @property
    def norm_epsilon(self) -> float:
        """Epsilon of the norms."""
        return 1e-5 if self.paper else self.epsilon


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Inverted dropout; the identity without a key."""
    if key is None or rate == 0.0:
        return x
    with jax.named_scope("dropout"):
        keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
        return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


def make_norm(width: int, block_config: BlockConfig, rngs: nnx.Rngs) -> nnx.Module:
    """RMSNorm, or LayerNorm with bias and epsilon 1e-5 (paper), in float32."""
    epsilon = block_config.norm_epsilon
    if not block_config.paper:
        return nnx.RMSNorm(width, epsilon=epsilon, dtype=jnp.float32, rngs=rngs)
    return nnx.LayerNorm(
        width, epsilon=epsilon, use_fast_variance=False, dtype=jnp.float32, rngs=rngs
    )


class Attention(nnx.Module):
    """Causal self-attention with separate query, key, value and output kernels.

    Grouped-query attention (arXiv 2305.13245) where there are fewer key and value heads.
    """

    def __init__(self, config: TransformerConfig, block_config: BlockConfig, *, rngs: nnx.Rngs):
        width = config.d_model
        self.num_heads, self.kv_heads = config.num_heads, config.kv_heads
        self.head_dim = config.head_dim
        self.implementation = block_config.attention

        def linear(init: Initializer, heads: int) -> nnx.Linear:
            return nnx.Linear(
                width,
                heads * config.head_dim,
                use_bias=block_config.paper,
                kernel_init=init,
                dtype=block_config.dtype,
                rngs=rngs,
            )

        if not block_config.paper:
            inner, outer = _normal(width), _normal(width, config.num_layers)
        else:  # fairseq: Xavier, with gain 1/sqrt(2) on queries, keys and values
            inner = nnx.initializers.variance_scaling(0.5, "fan_avg", "uniform")
            outer = nnx.initializers.xavier_uniform()
        self.q = linear(inner, self.num_heads)
        self.k, self.v = linear(inner, self.kv_heads), linear(inner, self.kv_heads)
        self.out = linear(outer, self.num_heads)
        self.q_norm = make_norm(self.head_dim, block_config, rngs) if block_config.modern else None
        self.k_norm = make_norm(self.head_dim, block_config, rngs) if block_config.modern else None
        # Learned query and key biases, added before RoPE, give a relative-time prior from the first
        # step on: frames learn to attend to the units of their own time much sooner.
        unit = nnx.initializers.normal(1.0)

        def bias(heads: int) -> nnx.Param | None:
            if not block_config.rope:
                return None
            return nnx.Param(unit(rngs.params(), (heads, self.head_dim)))

        self.q_bias, self.k_bias = bias(self.num_heads), bias(self.kv_heads)

    @jax.named_scope("attention")
    def __call__(self, x: jax.Array, context: AttentionContext) -> jax.Array:
        """(B, L, D) to (B, L, D), or (L, B, D) to (L, B, D) where positions come first."""
        apply = apply_whole if context.positions_first else apply_flat
        query, key, value = (
            apply(f, x).reshape(*x.shape[:-1], -1, self.head_dim) for f in (self.q, self.k, self.v)
        )
        if self.q_norm is not None and self.k_norm is not None:
            query = self.q_norm(query).astype(x.dtype)
            key = self.k_norm(key).astype(x.dtype)
        if self.q_bias is not None and self.k_bias is not None:
            query = query + self.q_bias[...][None, None].astype(x.dtype)
            key = key + self.k_bias[...][None, None].astype(x.dtype)
        if context.angles is not None:
            query = apply_rope(query, context.angles)
            key = apply_rope(key, context.angles)
        if context.positions_first:
            mixed = attention.attend_short_rows(query, key, value)
        else:
            mixed = attention.attend(
                query,
                key,
                value,
                segment_ids=context.segment_ids,
                implementation=self.implementation,
            )
        return apply(self.out, mixed.reshape(x.shape))


class Mlp(nnx.Module):
    """Feed-forward: SwiGLU without biases, or exact GELU with biases (paper)."""

    def __init__(self, config: TransformerConfig, block_config: BlockConfig, *, rngs: nnx.Rngs):
        def linear(fan_in: int, fan_out: int, init: Initializer) -> nnx.Linear:
            return nnx.Linear(
                fan_in,
                fan_out,
                use_bias=block_config.paper,
                kernel_init=init,
                dtype=block_config.dtype,
                rngs=rngs,
            )

        width, inner = config.d_model, config.d_ff
        self.gate = None if block_config.paper else linear(width, inner, _normal(width))
        if not block_config.paper:
            self.up = linear(width, inner, _normal(width))
            self.down = linear(inner, width, _normal(inner, config.num_layers))
        else:  # torch's default for linear layers: uniform within 1/sqrt(fan_in)
            uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
            self.up = linear(width, inner, uniform)
            self.down = linear(inner, width, uniform)

    @jax.named_scope("mlp")
    def __call__(self, x: jax.Array, *, flat: bool = True) -> jax.Array:
        """(B, L, D) to (B, L, D); `flat`: see `apply_flat` and `apply_whole`."""
        apply = apply_flat if flat else apply_whole
        if self.gate is not None:
            inner = activations.swiglu(apply(self.gate, x), apply(self.up, x))
        else:
            inner = activations.gelu(apply(self.up, x))
        return apply(self.down, inner)


class Block(nnx.Module):
    """One pre-norm block: attention, then feed-forward, each added to the residual stream."""

    def __init__(self, config: TransformerConfig, block_config: BlockConfig, *, rngs: nnx.Rngs):
        self.attn_norm = make_norm(config.d_model, block_config, rngs)
        self.attn = Attention(config, block_config, rngs=rngs)
        self.mlp_norm = make_norm(config.d_model, block_config, rngs)
        self.mlp = Mlp(config, block_config, rngs=rngs)
        self.dropout = block_config.dropout

    def __call__(
        self,
        x: jax.Array,
        context: AttentionContext,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """(B, L, D) to (B, L, D)."""
        keys = (None, None) if key is None else jax.random.split(key)
        mixed = self.attn(self.attn_norm(x).astype(x.dtype), context)
        x = x + dropout(mixed, self.dropout, keys[0])
        normed = self.mlp_norm(x).astype(x.dtype)
        mixed = self.mlp(normed, flat=not context.positions_first)
        return x + dropout(mixed, self.dropout, keys[1])


class Transformer(nnx.Module):
    """Blocks under one loop, and the final norm."""

    def __init__(self, config: TransformerConfig, block_config: BlockConfig, *, rngs: nnx.Rngs):
        self.config, self.block_config = config, block_config

        @nnx.split_rngs(splits=config.num_layers)
        @nnx.vmap(in_axes=0, out_axes=0, transform_metadata={nnx.PARTITION_NAME: None})
        def build(rngs: nnx.Rngs) -> Block:
            return Block(config, block_config, rngs=rngs)

        self.layers = build(rngs)
        self.final_norm = make_norm(config.d_model, block_config, rngs)

    def __call__(
        self, x: jax.Array, context: AttentionContext, *, key: jax.Array | None = None
    ) -> jax.Array:
        """Teacher-forced forward pass: (B, L, D) to (B, L, D). A key switches dropout on.

        Where the context has positions first, (L, B, D) to (L, B, D).
        """
        axes = ("batch", "length", "embed")
        if context.positions_first:
            axes = ("length", "batch", "embed")
        graph, params = nnx.split(self.layers)
        keys = None if key is None else jax.random.split(key, self.config.num_layers)

        def body(x, layer):
            params, key = layer
            kernels = sharding.gather_layer(nnx.to_pure_dict(params), self.block_config.dtype)
            nnx.replace_by_pure_dict(params, kernels)
            x = nnx.merge(graph, params)(x, context, key=key)
            return sharding.constrain(x, axes), None

        body = rematerialized(body, self.block_config.remat)
        x, _ = over_layers(body, x, (params, keys))
        return self.final_norm(x).astype(x.dtype)


def apply_flat(linear: nnx.Linear, x: jax.Array) -> jax.Array:
    """Applies a linear layer to (B, L, D), flattened to one matrix.

    The kernel's gradient is then one matmul; with two leading axes XLA on CPUs first transposes
    both operands, which costs as much as half of the matmul.
    """
    return linear(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def apply_whole(linear: nnx.Linear, x: jax.Array) -> jax.Array:
    """Applies a linear layer to (L, B, D) as it is.

    Flattened, the sharded axis of rows would be the inner part of an axis, which no sharding can
    express.
    """
    return linear(x)


def _normal(fan_in: int, num_layers: int = 0) -> Initializer:
    """Normal with variance 1 / fan_in, over 2 `num_layers` for outputs of residual branches."""
    depth = (2 * num_layers) ** -0.5 if num_layers else 1.0
    return nnx.initializers.normal(depth * fan_in**-0.5)


def _keep_all_but_gathered(primitive, *_, **__) -> bool:
    """Remat policy: saves everything but parameters gathered from other devices, and casts.

    Saved, the gathered copies of all layers would undo the sharding of the parameters.
    """
    return primitive.name not in ("custom_vjp_call", "sharding_constraint", "convert_element_type")


def rematerialized(body: Callable, policy: str) -> Callable:
    """Applies a remat policy to a layer's body; gathered parameters are always recomputed."""
    policies = jax.checkpoint_policies
    if policy == "none":
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or mesh.size == 1:
            return body
        return jax.checkpoint(body, policy=_keep_all_but_gathered)
    if policy == "dots":
        return jax.checkpoint(
            body,
            policy=policies.save_from_both_policies(
                policies.dots_with_no_batch_dims_saveable,
                policies.save_only_these_names(splash_attention.RESIDUALS),
            ),
        )
    if policy == "full":
        return jax.checkpoint(body)
    raise ConfigError(f"config field model.remat: unknown policy {policy!r}")


class Head(nnx.Module):
    """A bias-free output matrix, initialised from N(0, 1 / fan_in)."""

    def __init__(self, shape: tuple[int, ...], fan_in: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.normal(fan_in**-0.5)
        self.kernel = nnx.Param(init(rngs.params(), shape, jnp.float32))
