"""Frames whose codebook q is q steps late, see `gpst_jax.models.patterns.delay`.

A step draws one code of each codebook: the first of the newest frame, the last of the frame Q - 1
steps before. Once the first codebook has ended, the others finish their frames and end one step
after another. Where a guard ends a row, the log-probability holds codes of frames that are not
complete.
"""

import jax
import jax.numpy as jnp

from data_pipeline.tokens import ACOUSTIC, EOS, PAD
from gpst_jax.generation import guards
from gpst_jax.generation.guards import END, LENGTH, RUNNING
from gpst_jax.generation.patterns.base import (
    CodeSampler,
    Model,
    Rows,
    Sampled,
    Variant,
    Weights,
    append,
    stream_keys,
)


def step_of(model: Model, weights: Weights, rows: Rows, variant: Variant):
    """The function of a step: `Sampled` to `Sampled`, whose tokens are those of the steps.

    Args:
        model: what is compiled for.
        weights: of the model.
        rows: their random streams, limits and settings.
        variant: which settings and guards the program knows.
    """
    layout, sizes, limits = model.layout, model.sizes, rows.limits
    depth, longest = layout.num_codebooks, jnp.asarray(limits.longest)
    keys, thresholds = stream_keys(rows, ACOUSTIC), variant.guards
    given = rows.given
    assert given is not None

    def draw(carry: Sampled) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Ids (B, Q) of the step, the frame that ends each row, and the log-probability (B,)."""
        may_end = (carry.step >= limits.shortest) & (carry.step < carry.end_at)
        sampler = CodeSampler(
            layout, weights.acoustic_heads, may_end, rows.settings, variant.sampling
        )
        newest = jnp.asarray(given)

        def code(state, codebook):
            end_at, log_prob = state
            frame = carry.step - codebook
            # An end that codebook 0 drew at an earlier step, or draws now, ends the others later.
            ends = (frame == end_at) & (end_at < longest)
            frame_keys = jax.vmap(lambda key: jax.random.fold_in(key, jnp.maximum(frame, 0)))(keys)
            hidden = carry.state.hidden[:, None]
            ids, end, code_log_prob = sampler(hidden, codebook, ends, frame_keys)
            end_at = jnp.where((codebook == 0) & end, frame, end_at)
            drawn = (frame >= 0) & ((frame < end_at) | end)
            past = jnp.where(frame == end_at, EOS, PAD)  # sampling stopped at the longest length
            known = jax.lax.dynamic_index_in_dim(
                newest[:, :, codebook],
                jnp.clip(-1 - frame, 0, max(depth - 2, 0)),
                1,
                keepdims=False,
            )
            ids = jnp.where(frame < 0, known, jnp.where(drawn, ids, past))
            return (end_at, log_prob + jnp.where(drawn, code_log_prob, 0.0)), ids

        begin = carry.end_at, jnp.zeros(len(longest))
        (end_at, log_prob), ids = jax.lax.scan(code, begin, jnp.arange(depth))
        return ids.T, end_at, log_prob

    def step(carry: Sampled) -> Sampled:
        running = carry.ended_by == RUNNING
        ids, end_at, log_prob = draw(carry)
        tokens = jax.lax.dynamic_update_slice_in_dim(carry.tokens, ids[:, None], carry.step, axis=1)
        # After the last frame time goes on, as in training.
        begun = limits.start + (carry.step + 1) * layout.ticks_per_frame
        later = carry.state.time + layout.ticks_per_frame
        state = append(
            model,
            weights,
            carry.state,
            jnp.where(ids == PAD, PAD, ids + layout.semantic_vocab),
            jnp.where(carry.step < end_at, begun, later),
            ACOUSTIC,
            running,
            sizes.before_frames + carry.step,
            sizes.slots,
        )
        complete = carry.step - (depth - 1)  # the frame whose last code was drawn
        count = jnp.clip(complete + 1, 0, end_at)
        ended = end_at < longest
        last = jnp.where(ended, end_at, end_at - 1)  # of which something is drawn
        ending = jnp.where(complete >= last, jnp.where(ended, END, LENGTH), RUNNING)
        watch = carry.watch
        if thresholds is not None and watch is not None:
            steps = jax.lax.dynamic_slice_in_dim(tokens, jnp.maximum(complete, 0), depth, axis=1)
            frame = jnp.diagonal(steps, axis1=1, axis2=2)
            seen, fired = guards.observe(thresholds, watch, frame, rows.silence)
            new = (complete >= 0) & (complete < end_at)

            def kept(after, before):
                shape = (-1,) + (1,) * (after.ndim - 1)
                return jnp.where(new.reshape(shape), after, before)

            watch = jax.tree.map(kept, seen, watch)
            ending = jnp.where(new & (fired != RUNNING), fired, ending)
        return Sampled(
            carry.step + 1,
            state,
            jnp.where(running, ending, carry.ended_by),
            tokens,
            jnp.where(running, count, carry.num_tokens),
            carry.log_prob + jnp.where(running, log_prob, 0.0),
            watch,
            end_at,
        )

    return step
