"""Cached decoding of the transformer, from weights laid out as its loop reads them.

Training stacks the parameters of all layers and scans them. A decode step that sliced its layers
out of the stacked arrays would copy every weight at every step, so the weights are taken apart
once: one array per layer, products with a common input fused, all in the activation dtype.

A row's new position is written at a slot that all rows of the batch share, which updates the cache
in place. Which slots hold a position of which row is a mask of its own (`visible`); the time of a
position enters by RoPE or an embedding, not by its slot.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from data_pipeline.runtime.errors import UserError
from gpst_jax.config import ConfigError, TransformerConfig
from gpst_jax.models.rope import apply_rope
from gpst_jax.models.transformer import BlockConfig

Tree = TypeVar("Tree")
WEIGHTS = ("float32", "bfloat16", "int8")


def in_weights(config: Any, weights: str | None) -> tuple[Any, bool]:
    """The configuration of a model decoded with the given weights, and whether they are int8.

    Raises:
        ConfigError: `weights` is none of WEIGHTS, nor None (as the configuration says).
        UserError: the library for int8 is not installed.
    """
    if weights not in (None, *WEIGHTS):
        raise ConfigError(f"decoding: weights must be of {', '.join(WEIGHTS)}, got {weights!r}")
    if weights == "int8":
        try:
            import qwix  # noqa: F401
        except ImportError as error:
            raise UserError("int8 weights need qwix: pip install 'gpst_jax[int8]'") from error
    if weights in ("float32", "bfloat16"):
        config = dataclasses.replace(config, dtype=weights)
    return config, weights == "int8"


class Linear(NamedTuple):
    """A linear map (in, out) with its bias (out,), if it has one."""

    kernel: Any  # an array, or one of qwix in int8 with a scale for each output
    bias: jax.Array | None = None

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, n, in) to (B, n, out) in the dtype of x."""
        # One matrix product: with two leading axes XLA on CPUs would transpose both operands.
        y = _product(x.reshape(-1, x.shape[-1]), self.kernel).reshape(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias[None, None]


def _product(x: jax.Array, kernel: Any) -> jax.Array:
    """(N, in) times a kernel (in, out)."""
    rows = len(x)
    if (rows == 1 and x.dtype != jnp.float32) or not isinstance(kernel, jax.Array):
        # XLA on CPUs is slow at products of a matrix with one vector unless they are float32.
        x = jnp.broadcast_to(x, (max(rows, 2), x.shape[1]))
    if isinstance(kernel, jax.Array):
        return (x @ kernel)[:rows]
    import qwix

    quantized = qwix.quantize(x, jnp.int8, channelwise_axes=(0,))
    return qwix.dot(quantized, kernel)[:rows].astype(x.dtype)


def quantized(linear: Linear) -> Linear:
    """The map with its kernel in int8: symmetric, with a scale for each output."""
    import qwix

    kernel = qwix.quantize(linear.kernel, jnp.int8, channelwise_axes=(1,))
    return Linear(kernel, linear.bias)


class Norm(NamedTuple):
    """Scale and bias (D,) of a norm; RMSNorm has no bias, LayerNorm has one."""

    scale: jax.Array
    bias: jax.Array | None = None

    def __call__(self, x: jax.Array, block: BlockConfig) -> jax.Array:
        """Normalises the last axis in float32; the result has the dtype of x."""
        y = x.astype(jnp.float32)
        if block.paper:
            y = y - y.mean(axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(axis=-1, keepdims=True) + block.norm_epsilon)
        y = y * _like(self.scale, y)
        return (y if self.bias is None else y + _like(self.bias, y)).astype(x.dtype)


class Layer(NamedTuple):
    """The weights of one block; the fields of another variant are None."""

    attn_norm: Norm
    qkv: tuple[Linear, ...]  # queries, keys and values: three maps, or one with all side by side
    q_norm: Norm | None
    k_norm: Norm | None
    q_bias: jax.Array | None  # (H, D/H), added before RoPE
    k_bias: jax.Array | None  # (H_kv, D/H)
    out: Linear
    mlp_norm: Norm
    up: tuple[Linear, ...]  # gate, if there is one, and up: two maps or one
    down: Linear


class Weights(NamedTuple):
    """The layers of a transformer and its final norm."""

    layers: tuple[Layer, ...]
    final_norm: Norm


class Cache(NamedTuple):
    """KV cache: keys and values (H_kv * B, C, D/H) of each layer, in the activation dtype.

    Layers are separate arrays, so that a decode step updates one slot in place, without copies.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]


def prepare(params: Mapping[str, Any], block: BlockConfig) -> Weights:
    """Takes the parameters of a `Transformer` apart; traced once, before any loop.

    Args:
        params: its `layers`, stacked along a leading axis, and `final_norm`.
        block: its variant and activation dtype.
    """
    count = jax.tree.leaves(params["layers"])[0].shape[0]
    layers = [
        _layer(jax.tree.map(lambda leaf, at=at: leaf[at], params["layers"]), block)
        for at in range(count)
    ]
    return Weights(tuple(layers), _norm(params["final_norm"]))


def _layer(params: Mapping[str, Any], block: BlockConfig) -> Layer:
    attn, mlp = params["attn"], params["mlp"]
    modern = block.modern
    return Layer(
        attn_norm=_norm(params["attn_norm"]),
        qkv=_maps([attn[name] for name in "qkv"], block.dtype),
        q_norm=_norm(attn["q_norm"]) if modern else None,
        k_norm=_norm(attn["k_norm"]) if modern else None,
        q_bias=attn["q_bias"].astype(block.dtype) if "q_bias" in attn else None,
        k_bias=attn["k_bias"].astype(block.dtype) if "k_bias" in attn else None,
        out=_maps([attn["out"]], block.dtype)[0],
        mlp_norm=_norm(params["mlp_norm"]),
        up=_maps([mlp[name] for name in ("gate", "up") if name in mlp], block.dtype),
        down=_maps([mlp["down"]], block.dtype)[0],
    )


def _maps(maps: Sequence[Mapping[str, jax.Array]], dtype: Any) -> tuple[Linear, ...]:
    """Linear maps of one input; on one device as a single map to all of their outputs."""
    kernels = [one["kernel"].astype(dtype) for one in maps]
    biases = [one["bias"].astype(dtype) for one in maps if "bias" in one]
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.size > 1:  # outputs side by side would not be sharded alike
        return tuple(map(Linear, kernels, biases)) if biases else tuple(map(Linear, kernels))
    bias = jnp.concatenate(biases) if biases else None
    return (Linear(jnp.concatenate(kernels, axis=1), bias),)


def _outputs(maps: tuple[Linear, ...], widths: Sequence[int], x: jax.Array) -> list[jax.Array]:
    """The outputs, of the given widths, of maps that may lie side by side in one."""
    if len(maps) == len(widths):
        return [one(x) for one in maps]
    ends = [sum(widths[:count]) for count in range(1, len(widths))]
    return jnp.split(maps[0](x), ends, axis=-1)


def _norm(params: Mapping[str, jax.Array]) -> Norm:
    return Norm(params["scale"], params.get("bias"))


def _like(vector: jax.Array, x: jax.Array) -> jax.Array:
    """A vector over the last axis of x."""
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


def in_int8(weights: Tree) -> Tree:
    """The weights with all kernels in int8, see `quantized`."""
    return jax.tree.map(
        lambda leaf: quantized(leaf) if isinstance(leaf, Linear) else leaf,
        weights,
        is_leaf=lambda leaf: isinstance(leaf, Linear),
    )


def empty_cache(config: TransformerConfig, dtype: Any, rows: int, slots: int) -> Cache:
    """An empty cache of `rows` rows of `slots` positions."""
    shape = (config.kv_heads * rows, slots, config.head_dim)
    empty = tuple(jnp.zeros(shape, dtype) for _ in range(config.num_layers))
    return Cache(empty, empty)


def extend(
    weights: Weights,
    config: TransformerConfig,
    block: BlockConfig,
    x: jax.Array,
    angles: jax.Array | None,
    visible: jax.Array,
    slot: jax.Array | int,
    cache: Cache,
) -> tuple[jax.Array, Cache]:
    """Prefill or decode step: n further positions of each row.

    Args:
        weights: of the transformer.
        config: its dimensions.
        block: its variant.
        x: (B, n, D) inputs.
        angles: (B, n, D/H/2) RoPE angles; None: no RoPE.
        visible: (B or 1, n, m) bool, the slots that each new position attends to: the first m.
        slot: where the first of them is written; n slots from there are overwritten.
        cache: the keys and values before.

    Returns:
        Hidden states (B, n, D) and the cache.
    """
    keys, values = [], []
    for layer, key, value in zip(weights.layers, *cache, strict=True):
        query, new_key, new_value = _projected(layer, config, block, x, angles)
        keys.append(_write(key, new_key, slot))
        values.append(_write(value, new_value, slot))
        x = x + layer.out(_attention(query, keys[-1], values[-1], visible).reshape(x.shape))
        x = x + _feed_forward(layer, config, block, layer.mlp_norm(x, block))
    return weights.final_norm(x, block), Cache(tuple(keys), tuple(values))


def _projected(layer, config, block, x, angles) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries (B, n, H, D/H), keys and values (B, n, H_kv, D/H) of new positions."""
    widths = [
        heads * config.head_dim for heads in (config.num_heads, config.kv_heads, config.kv_heads)
    ]
    query, key, value = (
        part.reshape(*x.shape[:-1], -1, config.head_dim)
        for part in _outputs(layer.qkv, widths, layer.attn_norm(x, block))
    )
    if layer.q_norm is not None:
        query, key = layer.q_norm(query, block), layer.k_norm(key, block)
    if layer.q_bias is not None:
        query, key = query + layer.q_bias[None, None], key + layer.k_bias[None, None]
    if angles is not None:
        query, key = apply_rope(query, angles), apply_rope(key, angles)
    return query, key, value


def _write(cache: jax.Array, new: jax.Array, slot: jax.Array | int) -> jax.Array:
    """Writes (B, n, H_kv, D/H) into (H_kv * B, C, D/H) at a slot."""
    new = new.transpose(2, 0, 1, 3).reshape(len(cache), -1, cache.shape[2])
    return jax.lax.dynamic_update_slice_in_dim(cache, new.astype(cache.dtype), slot, axis=1)


def _attention(
    query: jax.Array, keys: jax.Array, values: jax.Array, visible: jax.Array
) -> jax.Array:
    """Attention of (B, n, H, D/H) over the first slots of a cache where `visible` is true.

    The products have one batch axis, that of the cache: with two, XLA on CPUs would copy the cache
    at every step.
    """
    rows, count, heads, width = query.shape
    kv_heads, seen = len(keys) // rows, visible.shape[-1]
    grouped = query.reshape(rows, count, kv_heads, -1, width).transpose(2, 0, 3, 1, 4)
    flat = grouped.reshape(len(keys), -1, width)
    logits = jnp.einsum("gnd,gmd->gnm", flat, keys[:, :seen], preferred_element_type=jnp.float32)
    shape = (kv_heads, rows, heads // kv_heads, count, seen)
    logits = jnp.where(
        visible[None, :, None], logits.reshape(shape) * width**-0.5, jnp.finfo(jnp.float32).min
    )
    weights = jax.nn.softmax(logits, axis=-1).astype(values.dtype).reshape(len(keys), -1, seen)
    mixed = jnp.einsum("gnm,gmd->gnd", weights, values[:, :seen])
    return mixed.reshape(kv_heads, rows, -1, count, width).transpose(1, 3, 0, 2, 4)


def _feed_forward(layer, config, block, x) -> jax.Array:
    if block.paper:
        return layer.down(jax.nn.gelu(layer.up[0](x), approximate=False))
    gate, up = _outputs(layer.up, [config.d_ff] * 2, x)
    return layer.down(jax.nn.silu(gate) * up)
