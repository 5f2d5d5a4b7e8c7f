"""Attention over packed segments, full rows and a KV cache."""

import jax
import jax.numpy as jnp

from gpst_jax.config import ConfigError
from gpst_jax.models import splash_attention as splash

_BLOCK = 128  # queries that XLA's attention handles at once


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    segment_ids: jax.Array | None = None,
    key_mask: jax.Array | None = None,
    causal: bool = True,
    implementation: str = "auto",
) -> jax.Array:
    """Self-attention within the segments of packed rows, causal or bidirectional.

    Args:
        query: (B, L, H, D/H).
        key: (B, L, H_kv, D/H); each head is shared by H / H_kv adjacent query heads.
        value: like `key`.
        segment_ids: (B, L) int, or None where every row is one segment.
        key_mask: (B, L) bool, false for masked keys, such as padding; not with "splash".
        causal: whether a position attends only to itself and earlier ones.
        implementation: "xla", "cudnn", "splash", or "auto": splash on TPUs, cuDNN on GPUs in
            bfloat16, XLA elsewhere.

    Returns:
        (B, L, H, D/H) in the dtype of `query`; the softmax is taken in float32.
    """
    chosen = resolve(implementation, query)
    if chosen == "splash":
        if segment_ids is None:
            segment_ids = jnp.zeros(query.shape[:2], jnp.int32)
        return splash.attend(query, key, value, segment_ids, causal=causal)
    mask = None
    if segment_ids is not None:
        mask = (segment_ids[:, :, None] == segment_ids[:, None, :])[:, None]
    if key_mask is not None:
        keys = key_mask[:, None, None, :]
        mask = keys if mask is None else mask & keys
    if chosen == "cudnn":
        return jax.nn.dot_product_attention(
            query, key, value, mask=mask, is_causal=causal, implementation="cudnn"
        )
    # Heads first makes every product a plain batched matmul: faster on CPUs than
    # jax.nn.dot_product_attention. Keys after the end of a block of queries are skipped: nearly
    # half of the products.
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    length = query.shape[2]
    if not causal:
        visible = jnp.ones((1, 1, 1, length), bool) if mask is None else mask
        return _weighted_sum(query, key, value, visible).swapaxes(1, 2)
    index = jnp.arange(length)
    blocks = []
    for start in range(0, length, _BLOCK):
        end = min(start + _BLOCK, length)
        visible = (index[None, :end] <= index[start:end, None])[None, None]
        if mask is not None:
            rows = mask if mask.shape[2] == 1 else mask[:, :, start:end]
            visible = visible & rows[..., :end]
        blocks.append(
            _weighted_sum(query[:, :, start:end], key[:, :, :end], value[:, :, :end], visible)
        )
    return jnp.concatenate(blocks, axis=2).swapaxes(1, 2)


def _weighted_sum(
    query: jax.Array, key: jax.Array, value: jax.Array, visible: jax.Array
) -> jax.Array:
    """Attention of queries (B, H, n, D/H) over keys (B, H_kv, m, D/H) where `visible` is true.

    Query heads of a group are folded into the query axis of their key head, which is not copied.
    """
    shape, groups = query.shape, query.shape[1] // key.shape[1]
    if groups > 1:
        query = query.reshape(shape[0], key.shape[1], groups * shape[2], shape[3])
        if visible.shape[2] > 1:
            visible = jnp.tile(visible, (1, 1, groups, 1))
    logits = jnp.einsum("bhnd,bhmd->bhnm", query, key, preferred_element_type=jnp.float32)
    logits = jnp.where(visible, logits * query.shape[-1] ** -0.5, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("bhnm,bhmd->bhnd", weights, value).reshape(shape)


def attend_short_rows(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Causal self-attention over rows of a few positions, written as sums, for TPUs.

    A TPU stores the last two axes of an array in tiles of 8 x 128, and a product of an
    8 x 64 with a 64 x 8 matrix for each row and head pads its operands and results up to 16 times.
    Here rows are the last axis, which fills the tiles; the sums over positions and over the width
    of a head then run over the others. Positions are the first axis everywhere: the products before
    and after need no transposition over positions.

    Args:
        query: (L, B, H, D/H).
        key: (L, B, H_kv, D/H); each head is shared by H / H_kv adjacent query heads.
        value: like `key`.

    Returns:
        (L, B, H, D/H) in the dtype of `query`; the softmax is taken in float32.
    """
    shape, dtype, kv_heads = query.shape, query.dtype, key.shape[2]

    def rows_last(x):  # (L, H_kv, groups, D/H, B)
        x = x.reshape(*x.shape[:2], kv_heads, -1, x.shape[3])
        return x.transpose(0, 2, 3, 4, 1).astype(jnp.float32)

    query, key = rows_last(query), rows_last(key)
    logits = (query[:, None] * key[None]).sum(axis=4) * shape[3] ** -0.5
    index = jnp.arange(shape[0])
    visible = (index[None, :] <= index[:, None])[:, :, None, None, None]
    logits = jnp.where(visible, logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=1).astype(value.dtype).astype(jnp.float32)
    mixed = (weights[:, :, :, :, None] * rows_last(value)[None]).sum(axis=1)
    return mixed.astype(dtype).transpose(0, 4, 1, 2, 3).reshape(shape)


def resolve(implementation: str, query: jax.Array) -> str:
    """Resolves "auto" for queries (B, L, H, D/H) on the platform compiled for.

    Raises:
        ConfigError: the TPU kernel cannot tile the sequence length.
    """
    if implementation != "auto":
        return implementation
    platform = compiled_for()
    if platform == "tpu":
        length = query.shape[1]
        if length % splash.LANES:
            raise ConfigError(
                f"config field data.sequence_length: must be a multiple of {splash.LANES} on TPUs, "
                f"{length} is not; take {-(-length // splash.LANES) * splash.LANES}, or "
                "model.attention=xla, which materialises the logits"
            )
        return "splash"
    if platform in ("gpu", "cuda") and query.dtype == jnp.bfloat16:
        return "cudnn"
    return "xla"


def compiled_for() -> str:
    """The platform of the mesh, which may be absent (AOT compilation); else of this process."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform
