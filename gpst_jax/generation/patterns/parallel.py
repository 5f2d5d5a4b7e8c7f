"""Frames whose codes are drawn at once, independent given the frames before."""

import jax
import jax.numpy as jnp

from gpst_jax.generation import sampling
from gpst_jax.generation.patterns.base import CodeSampler, Model, Token, Weights


def sample_frame(
    model: Model,
    weights: Weights,
    hidden: jax.Array,
    may_end: jax.Array,
    keys: jax.Array,
    settings: sampling.Settings,
    variant: sampling.Variant,
) -> Token:
    """Samples the frame that a global hidden state (B, D) predicts.

    Arguments and result are those of `hierarchical.sample_frame`. Where the first codebook is the
    end, so are all.
    """
    rows, layout = len(hidden), model.layout
    sampler = CodeSampler(layout, weights.acoustic_heads, may_end, settings, variant)

    def step(carry, codebook):
        end, log_prob = carry
        ids, end, code_log_prob = sampler(hidden[:, None], codebook, end, keys)
        return (end, log_prob + code_log_prob), ids

    begin = jnp.zeros(rows, bool), jnp.zeros(rows)
    (end, log_prob), ids = jax.lax.scan(step, begin, jnp.arange(layout.num_codebooks))
    return Token(ids.T, end, log_prob)
