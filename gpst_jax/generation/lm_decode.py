"""The device side of sampling from the language model: one jitted loop over a static KV cache.

Prompts are right-padded; the new ids of all rows share their slots in the cache, which follow those
of the prompts (see `gpst_jax.models.decoding`).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpst_jax.config import SemanticLMConfig
from gpst_jax.generation import guards
from gpst_jax.generation.guards import END, LENGTH, RUNNING, Thresholds
from gpst_jax.models import decoding, semantic_lm

CHUNK = 64  # positions per chunk of the prefill


class Weights(NamedTuple):
    """The parameters as the loop reads them."""

    params: dict  # those outside of the layers
    net: decoding.Weights
    head: decoding.Linear


class Sampling(NamedTuple):
    """How ids are sampled: by each row in each of M phases, (B, M)."""

    temperature: jax.Array | np.ndarray
    top_k: jax.Array | np.ndarray  # int, the vocabulary size for no limit
    top_p: jax.Array | np.ndarray


class Rows(NamedTuple):
    """What differs from row to row, (B,) each."""

    seeds: np.ndarray  # uint32; with `items` they give the random streams
    items: np.ndarray
    lengths: np.ndarray  # of the prompts
    limits: np.ndarray  # new ids
    min_units: np.ndarray  # units before which a span of them may not end


class Ids(NamedTuple):
    """What ids mean, (V,) bool each."""

    units: np.ndarray
    silence: np.ndarray


@functools.partial(jax.jit, static_argnums=(0, 1))
def prepare(config: SemanticLMConfig, int8: bool, params: dict) -> Weights:
    """The weights of the transformer and the output matrix, from parameters as trained."""
    model = semantic_lm.bind(config, params)
    weights = Weights(
        params={"embed": params["embed"]},
        net=decoding.prepare(params["net"], model.net.block_config),
        head=decoding.Linear(model.output_kernel()),
    )
    return decoding.in_int8(weights) if int8 else weights


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def decode_batch(
    config: SemanticLMConfig,
    max_new: int,
    candidates: int,
    thresholds: Thresholds | None,
    weights: Weights,
    prompts: jax.Array,
    rows: Rows,
    tables: tuple[jax.Array, jax.Array],
    sampling: Sampling,
    ids: Ids,
) -> dict[str, jax.Array]:
    """Continues prompts until each has ended; see `lm_sampler.LMDecoder.decode`.

    Args:
        config: the model.
        max_new: steps of the loop.
        candidates: the largest `top_k` of any row and phase.
        thresholds: of the guards; None: there are none.
        weights: of the model.
        prompts: (B, P) ids, right-padded; P is a multiple of CHUNK.
        rows: their random streams and lengths.
        tables: of the grammar: allowed ids and next phases, both (M, V); M is the end.
        sampling: of each row in each phase.
        ids: which are units, and which of those are silence.

    Returns:
        `ids` (B, max_new), markers and the end included, `log_probs` (B, max_new) under the model
        at temperature 1 with no id masked, `count` (B,), and `ended_by` (B,) of `guards.ENDINGS`.
    """
    size, width = prompts.shape
    cache = decoding.empty_cache(config.net, config.dtype, size, width + max_new)
    cache, hidden = prefill(config, weights, cache, prompts, rows.lengths)
    allowed, following = tables
    num_phases = allowed.shape[0]
    units = allowed & ids.units[None]
    speaks = units.any(axis=1)  # phases that allow units
    keys = jax.vmap(lambda seed, item: jax.random.fold_in(jax.random.key(seed), item))(
        rows.seeds, rows.items
    )

    def step(carry: _Carry) -> _Carry:
        current = jnp.minimum(carry.phase, num_phases - 1)
        too_short = speaks[current] & (carry.spoken < rows.min_units)
        may_follow = jnp.where(too_short[:, None], units[current], allowed[current])
        logits = weights.head(carry.hidden[:, None])[:, 0].astype(jnp.float32)
        row_sampling = jax.tree.map(
            lambda x: jnp.take_along_axis(x, current[:, None], axis=1)[:, 0], sampling
        )
        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, carry.step))(keys)
        masked = jnp.where(may_follow, logits, -jnp.inf)
        token = sample_ids(masked, step_keys, row_sampling, candidates)
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=-1)[:, 0]

        running = carry.ended_by == RUNNING
        phase = jnp.where(running, following[current, token], carry.phase)
        count = carry.num_ids + running
        ending = jnp.where(count >= rows.limits, LENGTH, RUNNING)
        watch = carry.watch
        if thresholds is not None and watch is not None:
            watch, fired = guards.observe(thresholds, watch, token[:, None], ids.silence)
            ending = jnp.where(fired != RUNNING, fired, ending)
        ending = jnp.where(phase == num_phases, END, ending)
        slot = width + carry.step
        visible = jax.lax.dynamic_update_slice_in_dim(carry.visible, running[:, None], slot, axis=1)
        position = rows.lengths + carry.num_ids
        hidden, cache = _extend(
            config, weights, token[:, None], position[:, None], visible[:, None], slot, carry.cache
        )
        return _Carry(
            carry.step + 1,
            cache,
            visible,
            hidden[:, 0],
            phase,
            jnp.where(running, ending, carry.ended_by),
            carry.ids.at[:, carry.step].set(jnp.where(running, token, 0)),
            carry.log_probs.at[:, carry.step].set(jnp.where(running, log_prob, 0.0)),
            count,
            carry.spoken + (running & ids.units[token]),
            watch,
        )

    zeros = jnp.zeros(size, jnp.int32)
    initial = _Carry(
        step=jnp.zeros((), jnp.int32),
        cache=cache,
        visible=jnp.arange(width + max_new)[None] < rows.lengths[:, None],
        hidden=hidden,
        phase=zeros,
        ended_by=jnp.where(rows.limits > 0, RUNNING, LENGTH).astype(jnp.int32),
        ids=jnp.zeros((size, max_new), jnp.int32),
        log_probs=jnp.zeros((size, max_new), jnp.float32),
        num_ids=zeros,
        spoken=zeros,
        watch=None if thresholds is None else guards.watch(thresholds, size, 1),
    )
    final = jax.lax.while_loop(
        lambda carry: (carry.step < max_new) & (carry.ended_by == RUNNING).any(), step, initial
    )
    return {
        "ids": final.ids,
        "log_probs": final.log_probs,
        "count": final.num_ids,
        "ended_by": final.ended_by,
    }


class _Carry(NamedTuple):
    """The state of the loop; see `decode_batch`."""

    step: jax.Array
    cache: decoding.Cache
    visible: jax.Array  # (B, C) bool, slots of the cache that hold an id of the row
    hidden: jax.Array  # (B, D) of the newest id
    phase: jax.Array  # (B,)
    ended_by: jax.Array  # (B,)
    ids: jax.Array  # (B, max_new)
    log_probs: jax.Array  # (B, max_new)
    num_ids: jax.Array  # (B,)
    spoken: jax.Array  # (B,) new units
    watch: guards.Watch | None


def prefill(
    config: SemanticLMConfig,
    weights: Weights,
    cache: decoding.Cache,
    prompts: jax.Array,
    lengths: jax.Array | np.ndarray,
) -> tuple[decoding.Cache, jax.Array]:
    """Prefills an empty cache from prompts (B, P) of `lengths` (B,).

    In chunks, which bounds the memory of the attention weights.

    Returns:
        The cache, and the hidden state (B, D) of each row's last position.
    """
    rows, width = prompts.shape
    last_chunk, last_offset = (lengths - 1) // CHUNK, (lengths - 1) % CHUNK

    def body(carry, inputs):
        cache, last = carry
        number, tokens = inputs
        at = number * CHUNK + jnp.arange(CHUNK)
        visible = (jnp.arange(width)[None] <= at[:, None])[None]
        positions = jnp.broadcast_to(at[None], tokens.shape)
        hidden, cache = _extend(config, weights, tokens, positions, visible, number * CHUNK, cache)
        here = jnp.take_along_axis(hidden, last_offset[:, None, None], axis=1)[:, 0]
        return (cache, jnp.where((last_chunk == number)[:, None], here, last)), None

    chunks = prompts.reshape(rows, width // CHUNK, CHUNK).swapaxes(0, 1)
    empty = jnp.zeros((rows, config.net.d_model), config.dtype)
    (cache, last), _ = jax.lax.scan(body, (cache, empty), (jnp.arange(len(chunks)), chunks))
    return cache, last


def _extend(config, weights, tokens, positions, visible, slot, cache):
    """Hidden states of n further ids (B, n) at positions (B, n); see `decoding`."""
    model = semantic_lm.bind(config, weights.params)
    return decoding.extend(
        weights.net,
        config.net,
        model.net.block_config,
        model.lookup(tokens),
        model.context(positions).angles,
        visible,
        slot,
        cache,
    )


def sample_ids(
    logits: jax.Array, keys: jax.Array, sampling: Sampling, candidates: int
) -> jax.Array:
    """Samples one id per row, (B,).

    Args:
        logits: (B, V), -inf where an id is not allowed.
        keys: (B,) random keys.
        sampling: fields (B,); temperature, then top-k, then nucleus sampling (top-p).
        candidates: the largest `top_k`.
    """
    if candidates == 1:
        return jnp.argmax(logits, axis=-1)
    logits, ids = jax.lax.top_k(logits / sampling.temperature[:, None], candidates)
    logits = jnp.where(jnp.arange(candidates)[None] < sampling.top_k[:, None], logits, -jnp.inf)
    probabilities = jax.nn.softmax(logits, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    logits = jnp.where(before < sampling.top_p[:, None], logits, -jnp.inf)
    chosen = jax.vmap(jax.random.categorical)(keys, logits)
    return jnp.take_along_axis(ids, chosen[:, None], axis=-1)[:, 0]
