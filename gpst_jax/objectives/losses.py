"""Masked, label-smoothed cross-entropy, and the z-loss that may be added to it."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

Sums = TypeVar("Sums")
CHUNK_BYTES = 64 * 2**20  # of a chunk's logits, on each device


def cross_entropy(
    logits: jax.Array, targets: jax.Array, mask: jax.Array, smoothing: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """Summed loss and summed negative log-likelihood, in nats.

    The smoothing mass is uniform over all classes, the target and the special classes included:
    (1 - e) * nll + e * mean over classes of -log p, as in the official code.

    Args:
        logits: (..., C) of any float dtype; the softmax is taken in float32.
        targets: (...) int class ids; ignored where the mask is 0.
        mask: (...) bool or number, 1 where a prediction counts. With one axis more, (..., G), it
            assigns each prediction to at most one of G groups.
        smoothing: e, in [0, 1).

    Returns:
        In float32 the summed smoothed loss, a scalar, and the summed plain nll, a scalar or (G,).
    """
    if mask.ndim == targets.ndim + 1:
        counted = mask.astype(jnp.float32)
        loss, nll = _by_prediction(logits, targets, mask.any(axis=-1), smoothing)
        return loss.sum(), jnp.einsum("...,...g->g", nll, counted)
    loss, nll = _by_prediction(logits, targets, mask, smoothing)
    return loss.sum(), nll.sum()


def _by_prediction(
    logits: jax.Array, targets: jax.Array, mask: jax.Array, smoothing: float
) -> tuple[jax.Array, jax.Array]:
    """Loss and nll of every prediction, two float32 arrays (...)."""
    logits = logits.astype(jnp.float32)
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    safe = jnp.where(mask > 0, targets, 0)
    target_logits = jnp.take_along_axis(logits, safe[..., None], axis=-1)[..., 0]
    weight = mask.astype(jnp.float32)
    nll = (normaliser - target_logits) * weight
    loss = nll
    if smoothing > 0:
        uniform = (normaliser - logits.mean(axis=-1)) * weight
        loss = (1.0 - smoothing) * nll + smoothing * uniform
    return loss, nll


class PenalisedSums(NamedTuple):
    """Sums over predictions, float32."""

    loss: jax.Array  # what is differentiated: smoothed, with the z-loss; scalar
    nll: jax.Array  # plain negative log-likelihood, in nats; scalar or (G,)
    z_loss: jax.Array | None  # the part of `loss` that is z-loss, scalar; None where it is off


def penalised_cross_entropy(
    logits: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> PenalisedSums:
    """`cross_entropy` with `z_loss` times (log Z)^2 added to the loss of every prediction.

    Z is the sum of the exponentials of a prediction's logits; keeping it near 1 stabilises
    training in low precision (PaLM, arXiv 2204.02311, section 5).
    """
    loss, nll = cross_entropy(logits, targets, mask, smoothing)
    if z_loss == 0:
        return PenalisedSums(loss, nll, None)
    normaliser = jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1)
    counted = mask.any(axis=-1) if mask.ndim == targets.ndim + 1 else mask
    penalty = z_loss * (jnp.square(normaliser) * counted.astype(jnp.float32)).sum()
    return PenalisedSums(loss + penalty, nll, penalty)


def chunked_cross_entropy(
    hidden: jax.Array,
    kernel: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    smoothing: float = 0.0,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[jax.Array, jax.Array]:
    """`cross_entropy` of `hidden @ kernel`, in chunks as `in_chunks` makes them."""

    def sums(logits: jax.Array, targets: jax.Array, mask: jax.Array):
        return cross_entropy(logits, targets, mask, smoothing)

    return in_chunks(sums, hidden, kernel, targets, mask, chunk_bytes)


@jax.named_scope("chunked_cross_entropy")
def in_chunks(
    sums: Callable[[jax.Array, jax.Array, jax.Array], Sums],
    hidden: jax.Array,
    kernel: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    chunk_bytes: int = CHUNK_BYTES,
) -> Sums:
    """Sums over predictions of `hidden @ kernel` without the logits of full rows in memory.

    Rows are split into equal chunks whose float32 logits take at most about `chunk_bytes` per
    device; the backward pass recomputes the logits of each chunk.

    Args:
        sums: of logits, targets and mask; its arrays are float32 and added up over chunks.
        hidden: (B, L, D).
        kernel: (D, C).
        targets: (B, L) int.
        mask: (B, L), or (B, L, G) for groups.
        chunk_bytes: bound on the size of a chunk's logits.
    """
    rows, length, _ = hidden.shape

    def chunk_sums(hidden, targets, mask):
        return sums(hidden @ kernel.astype(hidden.dtype), targets, mask)

    mesh = jax.sharding.get_abstract_mesh()
    devices = 1 if mesh.empty else mesh.size  # rows and vocabulary are sharded over all of them
    chunks = _divisor(length, rows * length * kernel.shape[1] * 4 / devices / chunk_bytes)
    if chunks == 1:
        return chunk_sums(hidden, targets, mask)

    def split(x):
        return jnp.moveaxis(x.reshape(rows, chunks, length // chunks, *x.shape[2:]), 1, 0)

    def body(total, chunk):
        return jax.tree.map(jnp.add, total, jax.checkpoint(chunk_sums)(*chunk)), None

    parts = split(hidden), split(targets), split(mask)
    shapes = jax.eval_shape(chunk_sums, *jax.tree.map(lambda part: part[0], parts))
    start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(body, start, parts)[0]


def over_chunks(
    sums: Callable[..., Sums], arrays: tuple[jax.Array, ...], size: int, key: jax.Array | None
) -> Sums:
    """Sums over chunks of the second axis, one chunk after another.

    The chunks are unrolled: a scan would copy what each keeps for the backward pass once more, into
    arrays of all chunks and out of them.

    Args:
        sums: of a part of each array and a key; its arrays are added up.
        arrays: (B, K, ...).
        size: of a chunk, along K; the last one has the rest.
        key: split over the chunks, or None.
    """
    starts = range(0, arrays[0].shape[1], size)
    keys = [None] * len(starts) if key is None else jax.random.split(key, len(starts))
    parts = [
        sums(*(x[:, start : start + size] for x in arrays), key)
        for start, key in zip(starts, keys, strict=True)
    ]
    return jax.tree.map(lambda *terms: sum(terms), *parts)


def _divisor(length: int, at_least: float) -> int:
    """Smallest divisor of `length` that is at least `at_least`."""
    return next(n for n in range(1, length + 1) if length % n == 0 and n >= min(at_least, length))
