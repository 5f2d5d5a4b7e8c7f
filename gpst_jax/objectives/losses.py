"""Masked, label-smoothed cross-entropy."""

import jax
import jax.numpy as jnp


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


@jax.named_scope("chunked_cross_entropy")
def chunked_cross_entropy(
    hidden: jax.Array,
    kernel: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    smoothing: float = 0.0,
    chunk_bytes: int = 64 * 2**20,
) -> tuple[jax.Array, jax.Array]:
    """`cross_entropy` of `hidden @ kernel` without materialising the logits of full rows.

    Rows are split into equal chunks whose float32 logits take at most about `chunk_bytes` per
    device; the backward pass recomputes the logits of each chunk.

    Args:
        hidden: (B, L, D).
        kernel: (D, C).
        targets: (B, L) int.
        mask: (B, L), or (B, L, G) for groups.
        smoothing: as in `cross_entropy`.
        chunk_bytes: bound on the size of a chunk's logits.

    Returns:
        The summed loss and summed nll, as `cross_entropy`.
    """
    rows, length, _ = hidden.shape

    def chunk_loss(hidden, targets, mask):
        logits = hidden @ kernel.astype(hidden.dtype)
        return cross_entropy(logits, targets, mask, smoothing)

    mesh = jax.sharding.get_abstract_mesh()
    devices = 1 if mesh.empty else mesh.size  # rows and vocabulary are sharded over all of them
    chunks = _divisor(length, rows * length * kernel.shape[1] * 4 / devices / chunk_bytes)
    if chunks == 1:
        return chunk_loss(hidden, targets, mask)

    def split(x):
        return jnp.moveaxis(x.reshape(rows, chunks, length // chunks, *x.shape[2:]), 1, 0)

    def body(total, chunk):
        loss, nll = jax.checkpoint(chunk_loss)(*chunk)
        return (total[0] + loss, total[1] + nll), None

    zero = jnp.zeros((), jnp.float32)
    start = (zero, jnp.zeros(mask.shape[2:], jnp.float32))
    total, _ = jax.lax.scan(body, start, (split(hidden), split(targets), split(mask)))
    return total


def _divisor(length: int, at_least: float) -> int:
    """Smallest divisor of `length` that is at least `at_least`."""
    return next(n for n in range(1, length + 1) if length % n == 0 and n >= min(at_least, length))
