"""Frames by the local transformer, one code after another (arXiv 2406.00976, section 3)."""

import jax
import jax.numpy as jnp

from gpst_jax.generation import sampling
from gpst_jax.generation.patterns.base import CodeSampler, Model, Token, Weights
from gpst_jax.models import decoding, gpst


def sample_frame(
    model: Model,
    weights: Weights,
    hidden: jax.Array,
    may_end: jax.Array,
    keys: jax.Array,
    settings: sampling.Settings,
    variant: sampling.Variant,
) -> Token:
    """Samples the frame that a global hidden state predicts, one codebook after another.

    The end is allowed in the first codebook only; other special classes are masked.

    Args:
        model: what is compiled for.
        weights: of the model.
        hidden: (B, D).
        may_end: (B,) bool, whether the end is allowed.
        keys: (B,) random keys.
        settings: of the codes.
        variant: which settings are compiled.

    Returns:
        Local ids (B, Q), whether the end was sampled (B,), and the log-probability (B,) of the
        frame; for an end, that of the end in all codebooks.
    """
    layout, config = model.layout, model.config
    bound = gpst.bind(config, layout, weights.params)
    net, local = bound.local_net, weights.local_net
    assert net.positions is not None
    assert local is not None
    positions = net.positions.embedding[...]
    rows, depth = len(hidden), layout.num_codebooks
    sampler = CodeSampler(layout, weights.acoustic_heads, may_end, settings, variant)

    def step(carry, codebook):
        x, cache, end, log_prob = carry
        x = (x + positions[codebook][None]).astype(config.dtype)
        visible = (jnp.arange(depth) <= codebook)[None, None]
        out, cache = decoding.extend(
            local,
            config.local_net,
            net.block_config,
            x[:, None],
            None,
            visible,
            codebook,
            cache,
        )
        ids, end, code_log_prob = sampler(out, codebook, end, keys)
        return (net.lookup(ids), cache, end, log_prob + code_log_prob), ids

    begin = (
        bound.project(hidden).astype(jnp.float32),
        decoding.empty_cache(config.local_net, config.dtype, rows, depth),
        jnp.zeros(rows, bool),
        jnp.zeros(rows),
    )
    (_, _, end, log_prob), ids = jax.lax.scan(step, begin, jnp.arange(depth))
    return Token(ids.T, end, log_prob)
