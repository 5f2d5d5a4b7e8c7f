"""Frames whose codes are positions of the backbone, see `gpst_jax.models.patterns.flat`."""

import jax
import jax.numpy as jnp

from data_pipeline.tokens import ACOUSTIC
from gpst_jax.generation import sampling
from gpst_jax.generation.patterns.base import (
    CodeSampler,
    Model,
    State,
    Token,
    Turn,
    Weights,
    append,
)


def next_frame(
    model: Model,
    weights: Weights,
    state: State,
    turn: Turn,
    settings: sampling.Settings,
    variant: sampling.Variant,
) -> tuple[State, Token]:
    """Samples a frame in Q steps of the backbone.

    Args:
        model: what is compiled for.
        weights: of the model.
        state: whose newest position predicts the first code.
        turn: the step.
        settings: of the codes.
        variant: which settings are compiled.

    Returns:
        The state whose newest position predicts the first code of the next frame, and the frame
        as of `hierarchical.sample_frame`.
    """
    layout, sizes, depth = model.layout, model.sizes, model.layout.num_codebooks
    sampler = CodeSampler(layout, weights.acoustic_heads, turn.may_end, settings, variant)
    rows, begins = len(turn.running), state.time

    def step(carry, codebook):
        state, end, log_prob = carry
        ids, end, code_log_prob = sampler(state.hidden[:, None], codebook, end, turn.keys)
        predicted = (codebook + 1) % depth
        state = append(
            model,
            weights,
            state,
            (ids + layout.semantic_vocab)[:, None],
            jnp.where(predicted == 0, turn.time, begins),
            ACOUSTIC + predicted,
            turn.running,
            sizes.before_frames + turn.step * depth + codebook,
            sizes.slots,
        )
        return (state, end, log_prob + code_log_prob), ids

    begin = state, jnp.zeros(rows, bool), jnp.zeros(rows)
    (state, end, log_prob), ids = jax.lax.scan(step, begin, jnp.arange(depth))
    return state, Token(ids.T, end, log_prob)
