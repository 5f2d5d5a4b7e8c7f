"""The device side of sampling from GPST: jitted loops over a static KV cache.

Shapes depend on the batch only through padded lengths, so that few programs are compiled for any
set of requests. The cache length of a row that has ended stays: what is written after it is
overwritten by the next real position, and attention is causal.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from data_pipeline.tokens import ACOUSTIC, EOS, NUM_SPECIALS, PAD, SEMANTIC
from gpst_jax.models import gpst
from gpst_jax.models.transformer import AttentionContext, Cache
from gpst_jax.parallel import sharding


class _State(NamedTuple):
    cache: Cache
    hidden: jax.Array  # (B, D) hidden state of the newest position
    cache_length: jax.Array  # (B,) positions in the cache


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def decode_batch(config, layout, positions, static, params, seed, items, units, codes, limits):
    """Prefills and samples both streams from right-padded prefixes; see `gpst_sampler`.

    Under a mesh (`jax.set_mesh`) the parameters may be sharded as in training, over any number of
    processes, all of which then call this with equal arguments and get all of the results.

    Args:
        config: model.
        layout: token layout.
        positions: "time" or "running".
        static: top-k of both streams, steps of both loops, and the length of the cache.
        params: parameters.
        seed: of the random streams; uint32 scalar.
        items: (B,) int32, index of each row's random stream.
        units: semantic prefix: tokens (B, P, Q), times (B, P) in ticks, lengths (B,).
        codes: acoustic prefix, as for `units`.
        limits: (B,) arrays max_units, min_frames, max_frames, unit_start, frame_start (ticks),
            and temperatures (2,).

    Returns:
        Arrays by name: units (B, max_units) and frames (B, max_frames, Q) as ids, their numbers,
        whether the ends were sampled, and summed log-probabilities.
    """
    semantic_top_k, acoustic_top_k, max_units, max_frames, length = static
    model = gpst.bind(config, layout, params)
    rows = items.shape[0]
    keys = jax.vmap(lambda item: jax.random.fold_in(jax.random.key(seed), item))(items)
    state = _State(
        cache=model.global_net.init_cache(rows, length),
        hidden=jnp.zeros((rows, config.global_net.d_model), config.dtype),
        cache_length=jnp.zeros(rows, jnp.int32),
    )
    state = _prefill(model, positions, state, units, SEMANTIC)
    outputs = _empty_outputs("units", (rows, 0))
    if max_units:
        state, outputs = _sample_units(
            model, positions, state, keys, limits, semantic_top_k, max_units
        )
    frames = _empty_outputs("frames", (rows, 0, layout.num_codebooks))
    if max_frames:
        state = _prefill(model, positions, state, codes, ACOUSTIC)
        frames = _sample_frames(model, positions, state, keys, limits, acoustic_top_k, max_frames)
    return jax.tree.map(lambda x: sharding.constrain(x, (None,) * x.ndim), outputs | frames)


def _empty_outputs(name: str, shape: tuple[int, ...]) -> dict[str, jax.Array]:
    """The outputs of a stream that is not sampled."""
    rows = shape[0]
    return {
        name: jnp.zeros(shape, jnp.int32),
        f"num_{name}": jnp.zeros(rows, jnp.int32),
        f"{name}_ended": jnp.ones(rows, bool),
        f"log_prob_{name}": jnp.zeros(rows),
    }


def _prefill(model, positions, state: _State, prefix, stream: int) -> _State:
    """Prefills the cache from a right-padded prefix; the next positions overwrite the padding."""
    tokens, lengths = prefix["tokens"], prefix["lengths"]
    times = prefix["times"]
    if positions == "running":
        times = state.cache_length[:, None] + jnp.arange(tokens.shape[1])[None]
    streams = jnp.full(tokens.shape[:2], stream, jnp.int32)
    hidden, cache = model.extend(tokens, times, streams, state.cache_length, state.cache)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
    return _State(cache, last, state.cache_length + lengths)


def _decode_step(model, positions, state: _State, token, time, stream: int, active) -> _State:
    """One decode step with the ids `token` (B, Q); rows that are not active keep their state."""
    if positions == "running":
        time = state.cache_length
    streams = jnp.full((token.shape[0], 1), stream, jnp.int32)
    hidden, cache = model.extend(
        token[:, None], time[:, None], streams, state.cache_length, state.cache
    )
    return _State(
        cache,
        jnp.where(active[:, None], hidden[:, 0], state.hidden),
        state.cache_length + active.astype(jnp.int32),
    )


def _sample_token(logits, allowed, keys, temperature, top_k: int):
    """Samples classes (B,) and their log-probabilities under the unmasked model."""
    log_probs = jax.nn.log_softmax(logits)
    logits = jnp.where(allowed, logits / temperature, -jnp.inf)
    if top_k:
        lowest = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][:, -1:]
        logits = jnp.where(logits >= lowest, logits, -jnp.inf)
    classes = (
        jnp.argmax(logits, axis=-1)
        if top_k == 1
        else jax.vmap(jax.random.categorical)(keys, logits)
    )
    return classes, jnp.take_along_axis(log_probs, classes[:, None], axis=-1)[:, 0]


def _sample_units(model, positions, state, keys, limits, top_k, max_units):
    layout = model.layout
    rows = keys.shape[0]
    keys = jax.vmap(lambda key: jax.random.fold_in(key, SEMANTIC))(keys)
    classes = jnp.arange(layout.semantic_vocab)
    allowed = jnp.broadcast_to(
        ((classes == EOS) | (classes >= NUM_SPECIALS))[None], (rows, len(classes))
    )

    def step(carry):
        step, state, done, ended, units, count, log_prob = carry
        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, step))(keys)
        logits = model.semantic_logits(state.hidden)
        unit, unit_log_prob = _sample_token(
            logits, allowed, step_keys, limits["temperatures"][0], top_k
        )
        log_prob = log_prob + jnp.where(done, 0.0, unit_log_prob)
        ended = ended | (~done & (unit == EOS))
        active = ~done & (unit != EOS)
        units = units.at[:, step].set(jnp.where(active, unit, units[:, step]))
        ids = jnp.full((rows, layout.num_codebooks), PAD, jnp.int32).at[:, 0].set(unit)
        time = limits["unit_start"] + (count + 1) * layout.ticks_per_unit
        state = _decode_step(model, positions, state, ids, time, SEMANTIC, active)
        count = count + active
        done = done | ended | (count >= limits["max_units"])
        return step + 1, state, done, ended, units, count, log_prob

    complete = limits["max_units"] <= 0
    initial = (
        jnp.zeros((), jnp.int32),
        state,
        complete,
        complete,
        jnp.zeros((rows, max_units), jnp.int32),
        jnp.zeros(rows, jnp.int32),
        jnp.zeros(rows),
    )
    _, state, _, ended, units, count, log_prob = jax.lax.while_loop(
        lambda carry: (carry[0] < max_units) & ~carry[2].all(), step, initial
    )
    return state, {
        "units": units,
        "num_units": count,
        "units_ended": ended,
        "log_prob_units": log_prob,
    }


def _sample_frames(model, positions, state, keys, limits, top_k, max_frames):
    layout = model.layout
    rows = keys.shape[0]
    keys = jax.vmap(lambda key: jax.random.fold_in(key, ACOUSTIC))(keys)
    temperature = limits["temperatures"][1]

    def step(carry):
        step, state, done, ended, frames, count, log_prob = carry
        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, step))(keys)
        may_end = count >= limits["min_frames"]
        frame, end, frame_log_prob = sample_frame(
            model, state.hidden, may_end, step_keys, temperature, top_k
        )
        log_prob = log_prob + jnp.where(done, 0.0, frame_log_prob)
        ended = ended | (~done & end)
        active = ~done & ~end
        frames = frames.at[:, step].set(jnp.where(active[:, None], frame, frames[:, step]))
        time = limits["frame_start"] + (count + 1) * layout.ticks_per_frame
        state = _decode_step(
            model, positions, state, frame + layout.semantic_vocab, time, ACOUSTIC, active
        )
        count = count + active
        done = done | end | (count >= limits["max_frames"])
        return step + 1, state, done, ended, frames, count, log_prob

    initial = (
        jnp.zeros((), jnp.int32),
        state,
        limits["max_frames"] <= 0,
        jnp.zeros(rows, bool),
        jnp.full((rows, max_frames, layout.num_codebooks), NUM_SPECIALS, jnp.int32),
        jnp.zeros(rows, jnp.int32),
        jnp.zeros(rows),
    )
    _, _, _, ended, frames, count, log_prob = jax.lax.while_loop(
        lambda carry: (carry[0] < max_frames) & ~carry[2].all(), step, initial
    )
    return {
        "frames": frames,
        "num_frames": count,
        "frames_ended": ended,
        "log_prob_frames": log_prob,
    }


def sample_frame(model: gpst.GPST, hidden, may_end, keys, temperature, top_k: int):
    """Samples the frame that a global hidden state predicts, one codebook after another.

    The end is allowed in the first codebook only; the other special classes are always masked.

    Args:
        model: the bound model.
        hidden: (B, D).
        may_end: (B,) bool, whether the end is allowed.
        keys: (B,) random keys.
        temperature: scalar.
        top_k: 0 for all classes.

    Returns:
        Local ids (B, Q), whether the end was sampled (B,), and the log-probability (B,) of the
        frame; for an end, that of the end in all codebooks.
    """
    layout, net = model.layout, model.local_net
    assert net.positions is not None
    positions = net.positions.embedding[...]
    rows = hidden.shape[0]
    classes = jnp.arange(layout.acoustic_classes)
    codes_only = jnp.broadcast_to((classes >= NUM_SPECIALS)[None], (rows, len(classes)))
    first_allowed = codes_only | ((classes == EOS)[None] & may_end[:, None])

    def step(carry, codebook):
        x, cache, end, log_prob = carry
        x = (x + positions[codebook][None]).astype(model.config.dtype)
        cache_length = jnp.full(rows, codebook, jnp.int32)
        out, cache = net.extend(x[:, None], AttentionContext(cache_length=cache_length), cache)
        logits = model.codebook_logits(out[:, 0], codebook)
        code_keys = jax.vmap(lambda key: jax.random.fold_in(key, codebook))(keys)
        allowed = jnp.where(codebook == 0, first_allowed, codes_only)
        sampled, sampled_log_prob = _sample_token(logits, allowed, code_keys, temperature, top_k)
        end = end | (sampled == EOS)
        end_log_prob = jax.nn.log_softmax(logits)[:, EOS]
        log_prob = log_prob + jnp.where(end, end_log_prob, sampled_log_prob)
        ids = jnp.where(end, EOS, sampled + codebook * layout.codebook_size)
        return (net.lookup(ids), cache, end, log_prob), ids

    start = (
        model.project(hidden).astype(jnp.float32),
        net.init_cache(rows, layout.num_codebooks),
        jnp.zeros(rows, bool),
        jnp.zeros(rows),
    )
    (_, _, end, log_prob), ids = jax.lax.scan(step, start, jnp.arange(layout.num_codebooks))
    return ids.T, end, log_prob
