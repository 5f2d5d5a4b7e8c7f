"""Rotary position embeddings (RoPE, arXiv 2104.09864), half-split layout."""

import jax
import jax.numpy as jnp

from gpst_jax.config.models import RopeScaling


def rope_angles(
    positions: jax.Array,
    head_dim: int,
    base: float,
    scaling: RopeScaling | None = None,
    time_scale: float = 1.0,
) -> jax.Array:
    """The RoPE angles of positions (arXiv 2104.09864, section 3.2.2).

    Args:
        positions: (B, L) int, such as ticks or indices.
        head_dim: even width of a head.
        base: RoPE base θ, a field of the model's configuration.
        scaling: Llama 3's scaling of low frequencies, for contexts longer than in pretraining.
        time_scale: positions are multiplied by it.

    Returns:
        (B, L, head_dim / 2) float32.
    """
    frequencies = base ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    if scaling is not None:
        frequencies = _llama3_scaled(frequencies, scaling)
    return (time_scale * positions.astype(jnp.float32))[..., None] * frequencies[None, None, :]


def _llama3_scaled(frequencies: jax.Array, scaling: RopeScaling) -> jax.Array:
    """Llama 3's scaling: low frequencies are divided by `factor`, high ones kept, with a ramp.

    The ramp is over the number of periods within the context length of pretraining.
    """
    periods = scaling.original_max_positions * frequencies / (2 * jnp.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = jnp.clip((periods - low) / (high - low), 0.0, 1.0)
    return frequencies * (kept + (1.0 - kept) / scaling.factor)


def apply_rope(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Applies RoPE (half-split layout) to x (B, L, H, D/H) at `angles` (B, L, D/H/2)."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = jnp.cos(angles)[:, :, None, :], jnp.sin(angles)[:, :, None, :]
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)
