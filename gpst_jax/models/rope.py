"""Rotary position embeddings (RoPE, arXiv 2104.09864), half-split layout."""

import jax
import jax.numpy as jnp

from gpst_jax.config.models import RopeScaling


def rotary(
    positions: jax.Array, head_dim: int, base: float = 300.0, scaling: RopeScaling | None = None
) -> jax.Array:
    """Angles of rotary position embedding (arXiv 2104.09864).

    Args:
        positions: (B, L) int, in ticks.
        head_dim: even width of a head.
        base: longest wavelength over 2 pi, in ticks. Rows of speech are short, and the two streams
            meet at offsets of a tick or two: with the 10,000 that is usual for text, half of each
            head cannot tell such offsets apart, and a model takes longer to find the units that
            belong to a frame.
        scaling: stretches long wavelengths, for rows beyond those of pretraining.

    Returns:
        (B, L, head_dim / 2) float32.
    """
    frequencies = base ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    if scaling is not None:
        frequencies = _stretched(frequencies, scaling)
    return positions.astype(jnp.float32)[..., None] * frequencies[None, None, :]


def _stretched(frequencies: jax.Array, scaling: RopeScaling) -> jax.Array:
    """Llama 3's rule: slow frequencies are divided by `factor`, fast ones kept, with a ramp.

    What counts is how many turns a frequency makes within the length of pretraining.
    """
    turns = scaling.original_max_positions * frequencies / (2 * jnp.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return frequencies * (kept + (1.0 - kept) / scaling.factor)


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Turns the halves of each head of x (B, L, H, D/H) by `angles` (B, L, D/H/2)."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = jnp.cos(angles)[:, :, None, :], jnp.sin(angles)[:, :, None, :]
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
