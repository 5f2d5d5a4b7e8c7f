"""The device side of sampling from GPST: jitted loops over a static KV cache.

A batch passes through up to four programs: prefill of the semantic prefixes, sampling of units, and
the same for frames. Sampling may stop at any step and go on from its state, so that frames can be
handed on while further ones are made.

The cache has the slots of the right-padded semantic prefixes, of the units to sample, of the
acoustic prefixes and of the frames to sample, in this order (see `gpst_jax.models.decoding`).
Shapes depend on the batch only through padded lengths, so that few programs are compiled.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.tokens import ACOUSTIC, EOS, NUM_SPECIALS, PAD, SEMANTIC, TokenLayout
from gpst_jax.config import GPSTConfig
from gpst_jax.generation import guards, sampling
from gpst_jax.generation.guards import END, LENGTH, RUNNING, Thresholds, Watch
from gpst_jax.models import decoding, gpst
from gpst_jax.parallel import sharding

Array = jax.Array | np.ndarray


class Sizes(NamedTuple):
    """Padded sizes that all batches of one call share: positions of each part of the cache."""

    units: int  # semantic prefix, its start included
    max_units: int
    codes: int  # acoustic prefix, its start included
    max_frames: int


class Model(NamedTuple):
    """What a program is compiled for."""

    config: GPSTConfig
    layout: TokenLayout
    positions: str  # "time" or "running"
    sizes: Sizes


class Weights(NamedTuple):
    """The parameters as the loops read them."""

    params: dict  # those outside of the layers
    global_net: decoding.Weights
    local_net: decoding.Weights
    semantic_head: decoding.Linear
    acoustic_heads: tuple[decoding.Linear, ...]  # of each codebook, or one for all


class State(NamedTuple):
    """The global transformer after the newest position of each row."""

    cache: decoding.Cache
    visible: jax.Array  # (B, C) bool, the slots that hold a position of the row
    hidden: jax.Array  # (B, D) hidden state of the newest position
    length: jax.Array  # (B,) positions


class Limits(NamedTuple):
    """Bounds and times of one stream, (B,) each."""

    shortest: Array  # tokens before which the end is not allowed
    longest: Array  # tokens after which sampling stops
    start: Array  # ticks at which the first token begins


class Rows(NamedTuple):
    """What differs from row to row while a stream is sampled."""

    seeds: Array  # (B,) uint32; with `items` they give the random streams
    items: Array  # (B,)
    limits: Limits
    settings: sampling.Settings
    silence: Array  # (V,) bool, the first ids of silence; the same for all rows


class Variant(NamedTuple):
    """What a sampling program knows; rows within it cause no compilation."""

    sampling: sampling.Variant
    guards: Thresholds | None = None


class Sampled(NamedTuple):
    """Sampling of one stream, at some step."""

    step: jax.Array
    state: State
    ended_by: jax.Array  # (B,) int32, of `guards.ENDINGS`; RUNNING where the row goes on
    tokens: jax.Array  # (B, longest, Q) ids; one id for a unit
    num_tokens: jax.Array  # (B,)
    log_prob: jax.Array  # (B,) sum, of the end too
    watch: Watch | None  # by the guards, if there are any


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def prepare(config: GPSTConfig, layout: TokenLayout, int8: bool, params: dict) -> Weights:
    """The weights of both transformers and of the heads, from parameters as trained."""
    model = gpst.bind(config, layout, params)
    outside = {
        name: {key: value for key, value in net.items() if key not in ("layers", "final_norm")}
        for name, net in params.items()
        if name not in ("semantic_head", "acoustic_head")
    }
    heads = model.acoustic_kernel()
    weights = Weights(
        params=outside,
        global_net=decoding.prepare(params["global_net"], model.global_net.block_config),
        local_net=decoding.prepare(params["local_net"], model.local_net.block_config),
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
        prefix: right-padded: tokens (B, P, Q), times (B, P) in ticks, lengths (B,).
    """
    rows, sizes = len(prefix["lengths"]), model.sizes
    net = model.config.global_net
    state = State(
        decoding.empty_cache(net, model.config.dtype, rows, sum(sizes)),
        visible=jnp.zeros((rows, sum(sizes)), bool),
        hidden=jnp.zeros((rows, net.d_model), model.config.dtype),
        length=jnp.zeros(rows, jnp.int32),
    )
    return _prefill(model, weights, state, prefix, SEMANTIC, 0)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def prefill_codes(model: Model, weights: Weights, state: State, prefix: dict) -> State:
    """The state after the acoustic prefixes, which are as in `prefill_units`."""
    return _prefill(model, weights, state, prefix, ACOUSTIC, sum(model.sizes[:2]))


def _prefill(model, weights, state: State, prefix, stream: int, slot: int) -> State:
    tokens, lengths, times = prefix["tokens"], prefix["lengths"], prefix["times"]
    count = tokens.shape[1]
    if model.positions == "running":
        times = state.length[:, None] + jnp.arange(count)[None]
    at = jnp.arange(count)
    causal = jnp.broadcast_to(at[None] <= at[:, None], (len(lengths), count, count))
    before = jnp.broadcast_to(state.visible[:, None, :slot], (len(lengths), count, slot))
    hidden, cache = _extend(
        model,
        weights,
        (tokens, times, jnp.full(tokens.shape[:2], stream, jnp.int32)),
        jnp.concatenate([before, causal], axis=2),
        slot,
        state.cache,
    )
    return State(
        cache,
        state.visible.at[:, slot : slot + count].set(at[None] < lengths[:, None]),
        jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0],
        state.length + lengths,
    )


def _extend(model, weights, inputs, visible, slot, cache):
    """Hidden states of n further positions (B, n, Q), their times and streams; see `decoding`."""
    bound = gpst.bind(model.config, model.layout, weights.params)
    return decoding.extend(
        weights.global_net,
        model.config.global_net,
        bound.global_net.block_config,
        bound.embed(*inputs),
        bound.context(inputs[1]).angles,
        visible,
        slot,
        cache,
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def start(variant: Variant, longest: int, depth: int, state: State, limits: Limits) -> Sampled:
    """Sampling before its first step, of at most `longest` tokens of `depth` ids."""
    rows = len(limits.longest)
    thresholds = variant.guards
    return Sampled(
        step=jnp.zeros((), jnp.int32),
        state=state,
        ended_by=jnp.where(limits.longest > 0, RUNNING, LENGTH).astype(jnp.int32),
        tokens=jnp.full((rows, longest, depth), NUM_SPECIALS, jnp.int32),
        num_tokens=jnp.zeros(rows, jnp.int32),
        log_prob=jnp.zeros(rows),
        watch=None if thresholds is None else guards.watch(thresholds, rows, depth),
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

    def draw(hidden, may_end, keys):
        logits = weights.semantic_head(hidden[:, None])[:, 0].astype(jnp.float32)
        allowed = (classes >= NUM_SPECIALS)[None] | ((classes == EOS)[None] & may_end[:, None])
        unit, log_prob = sampling.sample(logits, allowed, keys, rows.settings, variant.sampling)
        return unit[:, None], unit == EOS, log_prob

    def embedded(unit):
        ids = jnp.full((len(unit), layout.num_codebooks), PAD, jnp.int32)
        return ids.at[:, :1].set(unit)

    stream = model, weights, SEMANTIC, layout.ticks_per_unit, model.sizes.units
    return _sample(stream, (draw, embedded), variant, sampled, rows, stop)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def sample_frames(
    model: Model,
    variant: Variant,
    weights: Weights,
    sampled: Sampled,
    rows: Rows,
    stop: jax.Array,
) -> Sampled:
    """Samples frames up to step `stop`, or until every row has ended; as `sample_units`."""
    layout = model.layout

    def draw(hidden, may_end, keys):
        return sample_frame(model, weights, hidden, may_end, keys, rows.settings, variant.sampling)

    def embedded(frame):
        return frame + layout.semantic_vocab

    stream = model, weights, ACOUSTIC, layout.ticks_per_frame, sum(model.sizes[:3])
    return _sample(stream, (draw, embedded), variant, sampled, rows, stop)


def _sample(stream, functions, variant: Variant, sampled: Sampled, rows: Rows, stop) -> Sampled:
    model, weights, kind, ticks, slots_before = stream
    draw, embedded = functions
    limits, thresholds = rows.limits, variant.guards
    keys = jax.vmap(_stream_key, in_axes=(0, 0, None))(rows.seeds, rows.items, kind)
    size, longest, _ = sampled.tokens.shape
    slots = slots_before + longest

    def step(carry: Sampled) -> Sampled:
        step, state, ended_by, tokens, count, log_prob, watch = carry
        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, step))(keys)
        token, end, token_log_prob = draw(state.hidden, count >= limits.shortest, step_keys)
        running = ended_by == RUNNING
        active = running & ~end
        filled = jnp.where(active[:, None], token, NUM_SPECIALS)
        tokens = jax.lax.dynamic_update_slice_in_dim(tokens, filled[:, None], step, axis=1)
        time = state.length
        if model.positions == "time":
            time = limits.start + (count + 1) * ticks
        slot = slots_before + step
        visible = jax.lax.dynamic_update_slice_in_dim(state.visible, active[:, None], slot, axis=1)
        hidden, cache = _extend(
            model,
            weights,
            (embedded(token)[:, None], time[:, None], jnp.full((size, 1), kind, jnp.int32)),
            visible[:, None, :slots],
            slot,
            state.cache,
        )
        count = count + active
        ending = jnp.where(count >= limits.longest, LENGTH, RUNNING)
        if thresholds is not None and watch is not None:
            watch, fired = guards.observe(thresholds, watch, token, rows.silence)
            ending = jnp.where(fired != RUNNING, fired, ending)
        ending = jnp.where(end, END, ending)
        return Sampled(
            step + 1,
            State(cache, visible, hidden[:, 0], state.length + active),
            jnp.where(running, ending, ended_by),
            tokens,
            count,
            log_prob + jnp.where(running, token_log_prob, 0.0),
            watch,
        )

    def goes_on(carry: Sampled) -> jax.Array:
        return (carry.step < stop) & (carry.ended_by == RUNNING).any()

    sampled = jax.lax.while_loop(goes_on, step, sampled)
    results = {
        name: getattr(sampled, name) for name in ("ended_by", "tokens", "num_tokens", "log_prob")
    }
    whole = jax.tree.map(lambda x: sharding.constrain(x, (None,) * x.ndim), results)
    return sampled._replace(**whole)


def _stream_key(seed: Array, item: Array, kind: int) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), item), kind)


def sample_frame(
    model: Model,
    weights: Weights,
    hidden: jax.Array,
    may_end: jax.Array,
    keys: jax.Array,
    settings: sampling.Settings,
    variant: sampling.Variant,
) -> tuple[jax.Array, jax.Array, jax.Array]:
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
    net = bound.local_net
    assert net.positions is not None
    positions = net.positions.embedding[...]
    rows, depth = len(hidden), layout.num_codebooks
    # A head is chosen by a branch: sliced out of one array it would be copied.
    heads = [lambda x, head=head: head(x) for head in weights.acoustic_heads]
    classes = jnp.arange(layout.acoustic_classes)
    codes_only = jnp.broadcast_to((classes >= NUM_SPECIALS)[None], (rows, len(classes)))
    first_allowed = codes_only | ((classes == EOS)[None] & may_end[:, None])

    def step(carry, codebook):
        x, cache, end, log_prob = carry
        x = (x + positions[codebook][None]).astype(config.dtype)
        visible = (jnp.arange(depth) <= codebook)[None, None]
        out, cache = decoding.extend(
            weights.local_net,
            config.local_net,
            net.block_config,
            x[:, None],
            None,
            visible,
            codebook,
            cache,
        )
        logits = jax.lax.switch(codebook, heads, out)[:, 0].astype(jnp.float32)
        code_keys = jax.vmap(lambda key: jax.random.fold_in(key, codebook))(keys)
        allowed = jnp.where(codebook == 0, first_allowed, codes_only)
        code, code_log_prob = sampling.sample(logits, allowed, code_keys, settings, variant)
        end = end | (code == EOS)
        end_log_prob = jax.nn.log_softmax(logits)[:, EOS]
        log_prob = log_prob + jnp.where(end, end_log_prob, code_log_prob)
        ids = jnp.where(end, EOS, code + codebook * layout.codebook_size)
        return (net.lookup(ids), cache, end, log_prob), ids

    begin = (
        bound.project(hidden).astype(jnp.float32),
        decoding.empty_cache(config.local_net, config.dtype, rows, depth),
        jnp.zeros(rows, bool),
        jnp.zeros(rows),
    )
    (_, _, end, log_prob), ids = jax.lax.scan(step, begin, jnp.arange(depth))
    return ids.T, end, log_prob
