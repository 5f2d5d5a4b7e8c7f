"""The device side of sampling from the language model: one jitted loop over a static KV cache.

Prompts are right-padded. The next real id of a row overwrites the padding in the cache, and
attention is causal, so rows of different lengths share a batch.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpst_jax.config import SemanticLMConfig
from gpst_jax.models import semantic_lm
from gpst_jax.models.transformer import Cache

CHUNK = 64  # positions per chunk of the prefill


class Sampling(NamedTuple):
    """How ids are sampled in each of M phases."""

    temperature: jax.Array  # (M,)
    top_k: jax.Array  # (M,) int, the vocabulary size for no limit
    top_p: jax.Array  # (M,)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def decode_batch(
    config: SemanticLMConfig,
    max_new: int,
    candidates: int,
    params: dict,
    keys: jax.Array,
    prompts: jax.Array,
    lengths: jax.Array,
    limits: jax.Array,
    tables: tuple[jax.Array, jax.Array],
    sampling: Sampling,
) -> dict[str, jax.Array]:
    """Continues prompts until each has ended; see `lm_sampler.LMDecoder.decode`.

    Args:
        config: the model.
        max_new: steps of the loop.
        candidates: the largest `top_k` of any phase.
        params: parameters.
        keys: (B,) random keys.
        prompts: (B, P) ids, right-padded; P is a multiple of CHUNK.
        lengths: (B,) of the prompts.
        limits: (B,) new ids of each row.
        tables: of the grammar: allowed ids and next phases, both (M, V); M is the end.
        sampling: for each phase.

    Returns:
        `ids` (B, max_new), markers and the end included, `log_probs` (B, max_new) under the model
        at temperature 1 with no id masked, `count` (B,), and `ended` (B,) bool.
    """
    model = semantic_lm.bind(config, params)
    rows, width = prompts.shape
    cache = model.net.init_cache(rows, width + max_new)
    cache, hidden = prefill(model, cache, prompts, lengths)
    allowed, following = tables
    num_phases = allowed.shape[0]

    def step(carry):
        step, cache, hidden, cache_length, phase, done, ids, log_probs, count = carry
        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, step))(keys)
        logits = model.logits(hidden)
        current = jnp.minimum(phase, num_phases - 1)
        row_sampling = jax.tree.map(lambda values: values[current], sampling)
        masked = jnp.where(allowed[current], logits, -jnp.inf)
        token = sample_ids(masked, step_keys, row_sampling, candidates)
        log_prob = jnp.take_along_axis(
            jax.nn.log_softmax(logits, axis=-1), token[:, None], axis=-1
        )[:, 0]
        ids = ids.at[:, step].set(jnp.where(done, 0, token))
        log_probs = log_probs.at[:, step].set(jnp.where(done, 0.0, log_prob))
        phase = jnp.where(done, phase, following[current, token])
        count = count + ~done
        done = done | (phase == num_phases) | (count >= limits)
        extended, cache = model.extend(token[:, None], cache_length, cache)
        hidden = jnp.where(done[:, None], hidden, extended[:, 0])
        cache_length = cache_length + ~done
        return step + 1, cache, hidden, cache_length, phase, done, ids, log_probs, count

    initial = (
        jnp.zeros((), jnp.int32),
        cache,
        hidden,
        lengths,
        jnp.zeros(rows, jnp.int32),
        limits <= 0,
        jnp.zeros((rows, max_new), jnp.int32),
        jnp.zeros((rows, max_new), jnp.float32),
        jnp.zeros(rows, jnp.int32),
    )
    final = jax.lax.while_loop(lambda carry: (carry[0] < max_new) & ~carry[5].all(), step, initial)
    *_, phase, _, ids, log_probs, count = final
    return {"ids": ids, "log_probs": log_probs, "count": count, "ended": phase == num_phases}


def prefill(
    model: semantic_lm.SemanticLM, cache: Cache, prompts: jax.Array, lengths: jax.Array
) -> tuple[Cache, jax.Array]:
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
        cache_length = jnp.full(rows, number * CHUNK, jnp.int32)
        hidden, cache = model.extend(tokens, cache_length, cache)
        here = jnp.take_along_axis(hidden, last_offset[:, None, None], axis=1)[:, 0]
        return (cache, jnp.where((last_chunk == number)[:, None], here, last)), None

    chunks = prompts.reshape(rows, width // CHUNK, CHUNK).swapaxes(0, 1)
    empty = jnp.zeros((rows, model.config.net.d_model), model.dtype)
    (cache, last), _ = jax.lax.scan(body, (cache, empty), (jnp.arange(len(chunks)), chunks))
    return cache, last


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
    logits, ids = jax.lax.top_k(logits / sampling.temperature[:, None], candidates)
    logits = jnp.where(jnp.arange(candidates)[None] < sampling.top_k[:, None], logits, -jnp.inf)
    probabilities = jax.nn.softmax(logits, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    logits = jnp.where(before < sampling.top_p[:, None], logits, -jnp.inf)
    chosen = jax.vmap(jax.random.categorical)(keys, logits)
    return jnp.take_along_axis(ids, chosen[:, None], axis=-1)[:, 0]
