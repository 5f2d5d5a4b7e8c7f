"""Sampling of one token per row from logits, each row with its own settings."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Settings(NamedTuple):
    """Settings of each row, (B,)."""

    temperature: jax.Array | np.ndarray
    top_k: jax.Array | np.ndarray  # 0: every class
    top_p: (
        jax.Array | np.ndarray
    )  # nucleus sampling among the classes kept by top_k; 1: all of them


class Variant(NamedTuple):
    """What a compiled program knows; settings within it cause no compilation."""

    greedy: bool = False  # every row has top_k = 1
    candidates: int = 0  # largest top_k of any row; 0: no row has one
    nucleus: bool = False  # whether a row has top_p below 1


def sample(
    logits: jax.Array,
    allowed: jax.Array,
    keys: jax.Array,
    settings: Settings,
    variant: Variant,
) -> tuple[jax.Array, jax.Array]:
    """Samples classes and gives their log-probabilities under the unmasked model.

    Args:
        logits: (B, V) float32.
        allowed: (B, V) bool.
        keys: (B,) random keys.
        settings: of each row.
        variant: what is compiled.

    Returns:
        Classes (B,) and log-probabilities (B,) in nats, at temperature 1 with no class masked.
    """
    best = jnp.argmax(jnp.where(allowed, logits, -jnp.inf), axis=-1)
    classes = best
    if not variant.greedy:
        scaled = jnp.where(allowed, logits / settings.temperature[:, None], -jnp.inf)
        kept = _filtered(scaled, settings, variant)
        sampled = jax.vmap(jax.random.categorical)(keys, kept)
        classes = jnp.where(settings.top_k == 1, best, sampled)
    log_probs = jax.nn.log_softmax(logits)
    return classes, jnp.take_along_axis(log_probs, classes[:, None], axis=-1)[:, 0]


def _filtered(logits: jax.Array, settings: Settings, variant: Variant) -> jax.Array:
    """Masks classes beyond each row's top-k, and of those the ones beyond its nucleus (top-p)."""
    if not variant.candidates and not variant.nucleus:
        return logits
    size = logits.shape[-1]
    ranks = size if variant.nucleus else min(variant.candidates, size)
    best = jax.lax.top_k(logits, ranks)[0]
    top_k = jnp.where(settings.top_k == 0, size, jnp.minimum(settings.top_k, size))
    kept = jnp.arange(ranks)[None] < top_k[:, None]
    if variant.nucleus:
        probabilities = jax.nn.softmax(jnp.where(kept, best, -jnp.inf), axis=-1)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        kept = kept & (before < settings.top_p[:, None])
    # A row that keeps everything has its threshold below all classes.
    lowest = jnp.take_along_axis(best, kept.sum(axis=-1, keepdims=True) - 1, axis=-1)
    everything = (settings.top_k == 0) & (settings.top_p >= 1)
    return jnp.where((logits >= lowest) | everything[:, None], logits, -jnp.inf)
