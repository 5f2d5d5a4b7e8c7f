"""The device side of sampling from GPST: jitted loops over a static KV cache.

A batch passes through up to four programs: prefill of the semantic prefixes, sampling of units, and
the same for frames. Sampling may stop at any step and go on from its state, so that frames can be
handed on while further ones are made.

The cache has the slots of the right-padded semantic prefixes, of the units to sample, of the
acoustic prefixes and of the frames to sample, in this order (see `gpst_jax.models.decoding`).
Shapes depend on the batch only through padded lengths, so that few programs are compiled.
"""

import functools

import jax
import jax.numpy as jnp

from data_pipeline.tokens import ACOUSTIC, EOS, NUM_SPECIALS, PAD, SEMANTIC, TokenLayout
from gpst_jax.config import GPSTConfig
from gpst_jax.generation import guards, sampling
from gpst_jax.generation.guards import END, LENGTH, RUNNING
from gpst_jax.generation.patterns import delay, flat, hierarchical, parallel
from gpst_jax.generation.patterns.base import (
    Limits,
    Model,
    Rows,
    Sampled,
    State,
    Token,
    Turn,
    Variant,
    Weights,
    append,
    append_frame,
    extend,
    stream_keys,
)
from gpst_jax.models import decoding, gpst
from gpst_jax.parallel import sharding

_FRAMES = {"hierarchical": hierarchical.sample_frame, "parallel": parallel.sample_frame}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def prepare(config: GPSTConfig, layout: TokenLayout, int8: bool, params: dict) -> Weights:
    """The weights of the transformers and of the heads, from parameters as trained."""
    model = gpst.bind(config, layout, params)
    outside = {
        name: {key: value for key, value in net.items() if key not in ("layers", "final_norm")}
        for name, net in params.items()
        if name not in ("semantic_head", "acoustic_head")
    }
    heads = model.acoustic_kernel()
    local = None
    if "local_net" in params:
        local = decoding.prepare(params["local_net"], model.local_net.block_config)
    weights = Weights(
        params=outside,
        global_net=decoding.prepare(params["global_net"], model.global_net.block_config),
        local_net=local,
        semantic_head=decoding.Linear(model.semantic_kernel()),
        acoustic_heads=tuple(map(decoding.Linear, heads if heads.ndim == 3 else [heads])),
    )
    return decoding.in_int8(weights) if int8 else weights


@functools.partial(jax.jit, static_argnums=0)
def prefill_units(model: Model, weights: Weights, prefix: dict) -> State:
    """The state after the semantic prefixes.

    Args:
        model: what is compiled for.
        weights: of the model.
        prefix: right-padded: tokens (B, P, K), times (B, P) in ticks, streams (B, P), lengths (B,).
    """
    rows, slots = len(prefix["lengths"]), model.sizes.slots
    net = model.config.global_net
    state = State(
        decoding.empty_cache(net, model.config.dtype, rows, slots),
        visible=jnp.zeros((rows, slots), bool),
        hidden=jnp.zeros((rows, net.d_model), model.config.dtype),
        length=jnp.zeros(rows, jnp.int32),
        time=jnp.zeros(rows, jnp.int32),
    )
    return _prefill(model, weights, state, prefix, 0)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def prefill_codes(model: Model, weights: Weights, state: State, prefix: dict) -> State:
    """The state after the acoustic prefixes, which are as in `prefill_units`."""
    return _prefill(model, weights, state, prefix, model.sizes.before_codes)


def _prefill(model, weights, state: State, prefix, slot: int) -> State:
    tokens, lengths, times = prefix["tokens"], prefix["lengths"], prefix["times"]
    count = tokens.shape[1]
    if model.positions == "running":
        times = state.length[:, None] + jnp.arange(count)[None]
    at = jnp.arange(count)
    causal = jnp.broadcast_to(at[None] <= at[:, None], (len(lengths), count, count))
    before = jnp.broadcast_to(state.visible[:, None, :slot], (len(lengths), count, slot))
    hidden, cache = extend(
        model,
        weights,
        (tokens, times, prefix["streams"]),
        jnp.concatenate([before, causal], axis=2),
        slot,
        state.cache,
    )
    return State(
        cache,
        state.visible.at[:, slot : slot + count].set(at[None] < lengths[:, None]),
        jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0],
        state.length + lengths,
        jnp.take_along_axis(times, (lengths - 1)[:, None], axis=1)[:, 0],
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def start(variant: Variant, steps: int, depth: int, state: State, limits: Limits) -> Sampled:
    """Sampling before its first step, of at most `steps` steps of `depth` ids."""
    rows = len(limits.longest)
    thresholds = variant.guards
    return Sampled(
        step=jnp.zeros((), jnp.int32),
        state=state,
        ended_by=jnp.where(limits.longest > 0, RUNNING, LENGTH).astype(jnp.int32),
        tokens=jnp.full((rows, steps, depth), NUM_SPECIALS, jnp.int32),
        num_tokens=jnp.zeros(rows, jnp.int32),
        log_prob=jnp.zeros(rows),
        watch=None if thresholds is None else guards.watch(thresholds, rows, depth),
        end_at=jnp.asarray(limits.longest, jnp.int32),
    )


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def sample_units(
    model: Model,
    variant: Variant,
    weights: Weights,
    sampled: Sampled,
    rows: Rows,
    stop: jax.Array,
) -> Sampled:
    """Samples units up to step `stop`, or until every row has ended.

    Under a mesh (`jax.set_mesh`) the parameters may be sharded as in training, over any number of
    processes, all of which then call this with equal arguments and get all of the results.

    Args:
        model: what is compiled for.
        variant: which settings and guards the program knows.
        weights: of the model.
        sampled: where to go on; donated.
        rows: their random streams, limits and settings.
        stop: step, not beyond the padded number of units.
    """
    layout = model.layout
    classes = jnp.arange(layout.semantic_vocab)

    def next_unit(state: State, turn: Turn) -> tuple[State, Token]:
        logits = weights.semantic_head(state.hidden[:, None])[:, 0].astype(jnp.float32)
        allowed = (classes >= NUM_SPECIALS)[None] | ((classes == EOS)[None] & turn.may_end[:, None])
        unit, log_prob = sampling.sample(
            logits, allowed, turn.keys, rows.settings, variant.sampling
        )
        token = Token(unit[:, None], unit == EOS, log_prob)
        ids = jnp.full((len(unit), layout.num_codebooks), PAD, jnp.int32)
        state = append(
            model,
            weights,
            state,
            ids.at[:, :1].set(token.ids),
            turn.time,
            SEMANTIC,
            turn.running & ~token.end,
            model.sizes.units + turn.step,
            model.sizes.before_codes,
        )
        return state, token

    step = _step(next_unit, variant, rows, SEMANTIC, layout.ticks_per_unit)
    return _loop(step, sampled, stop)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def sample_frames(
    model: Model,
    variant: Variant,
    weights: Weights,
    sampled: Sampled,
    rows: Rows,
    stop: jax.Array,
) -> Sampled:
    """Samples frames up to step `stop`, or until every row has ended; as `sample_units`.

    How many steps complete a number of frames is the pattern's `Arrangement.decode_steps`.
    """
    pattern = model.config.pattern
    if pattern == "delay":
        return _loop(delay.step_of(model, weights, rows, variant), sampled, stop)

    def next_frame(state: State, turn: Turn) -> tuple[State, Token]:
        if pattern == "flat":
            return flat.next_frame(model, weights, state, turn, rows.settings, variant.sampling)
        given = turn.may_end, turn.keys, rows.settings, variant.sampling
        token = _FRAMES[pattern](model, weights, state.hidden, *given)
        slot = model.sizes.before_frames + turn.step
        return append_frame(model, weights, state, turn, token, slot), token

    step = _step(next_frame, variant, rows, ACOUSTIC, model.layout.ticks_per_frame)
    return _loop(step, sampled, stop)


def _step(next_token, variant: Variant, rows: Rows, kind: int, ticks: int):
    """The function of a step that completes a token: `Sampled` to `Sampled`."""
    limits, thresholds = rows.limits, variant.guards
    keys = stream_keys(rows, kind)

    def step(carry: Sampled) -> Sampled:
        step, state, ended_by, tokens, count, log_prob, watch, end_at = carry
        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, step))(keys)
        running = ended_by == RUNNING
        time = jnp.asarray(limits.start + (count + 1) * ticks)
        turn = Turn(step, running, count >= limits.shortest, step_keys, time)
        state, (token, end, token_log_prob) = next_token(state, turn)
        active = running & ~end
        filled = jnp.where(active[:, None], token, NUM_SPECIALS)
        tokens = jax.lax.dynamic_update_slice_in_dim(tokens, filled[:, None], step, axis=1)
        count = count + active
        ending = jnp.where(count >= limits.longest, LENGTH, RUNNING)
        if thresholds is not None and watch is not None:
            watch, fired = guards.observe(thresholds, watch, token, rows.silence)
            ending = jnp.where(fired != RUNNING, fired, ending)
        ending = jnp.where(end, END, ending)
        return Sampled(
            step + 1,
            state,
            jnp.where(running, ending, ended_by),
            tokens,
            count,
            log_prob + jnp.where(running, token_log_prob, 0.0),
            watch,
            end_at,
        )

    return step


def _loop(step, sampled: Sampled, stop: jax.Array) -> Sampled:
    """Runs steps until one has the number `stop`, or every row has ended."""

    def goes_on(carry: Sampled) -> jax.Array:
        return (carry.step < stop) & (carry.ended_by == RUNNING).any()

    sampled = jax.lax.while_loop(goes_on, step, sampled)
    results = {
        name: getattr(sampled, name) for name in ("ended_by", "tokens", "num_tokens", "log_prob")
    }
    whole = jax.tree.map(lambda x: sharding.constrain(x, (None,) * x.ndim), results)
    return sampled._replace(**whole)
