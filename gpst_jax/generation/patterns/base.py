"""What the programs of all patterns share: state, weights, one more position, one code."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.tokens import ACOUSTIC, EOS, NUM_SPECIALS, TokenLayout
from gpst_jax.config import GPSTConfig
from gpst_jax.generation import sampling
from gpst_jax.generation.guards import Thresholds, Watch
from gpst_jax.models import decoding, gpst

Array = jax.Array | np.ndarray


class Sizes(NamedTuple):
    """Padded sizes that all batches of one call share: positions of each part of the cache."""

    units: int  # semantic prefix, its start included
    max_units: int
    codes: int  # acoustic prefix, its start included
    max_frames: int  # frames to sample
    frame_slots: int  # positions that these take

    @property
    def before_codes(self) -> int:
        """Slots of the units."""
        return self.units + self.max_units

    @property
    def before_frames(self) -> int:
        """Slots of the units and of the acoustic prefix."""
        return self.before_codes + self.codes

    @property
    def slots(self) -> int:
        """All slots."""
        return self.before_frames + self.frame_slots


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
    local_net: decoding.Weights | None  # of the hierarchical pattern
    semantic_head: decoding.Linear
    acoustic_heads: tuple[decoding.Linear, ...]  # of each codebook, or one for all


class State(NamedTuple):
    """The global transformer after the newest position of each row."""

    cache: decoding.Cache
    visible: jax.Array  # (B, C) bool, the slots that hold a position of the row
    hidden: jax.Array  # (B, D) hidden state of the newest position
    length: jax.Array  # (B,) positions
    time: jax.Array  # (B,) ticks of the newest position, or its number where they are counted


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
    given: Array | None = None  # (B, Q - 1, Q) local ids of the newest given frames (delay)


class Variant(NamedTuple):
    """What a sampling program knows; rows within it cause no compilation."""

    sampling: sampling.Variant
    guards: Thresholds | None = None


class Sampled(NamedTuple):
    """Sampling of one stream, at some step."""

    step: jax.Array
    state: State
    ended_by: jax.Array  # (B,) int32, of `guards.ENDINGS`; RUNNING where the row goes on
    tokens: jax.Array  # (B, steps, Q) ids; one id for a unit
    num_tokens: jax.Array  # (B,)
    log_prob: jax.Array  # (B,) sum, of the end too
    watch: Watch | None  # by the guards, if there are any
    end_at: jax.Array  # (B,) token at which the row ends, as far as known (delay)


class Turn(NamedTuple):
    """One step of sampling, (B,) each but `step`."""

    step: jax.Array
    running: jax.Array  # rows that had not ended before
    may_end: jax.Array  # rows whose end is allowed
    keys: jax.Array  # random keys
    time: jax.Array  # ticks at which the token ends


class Token(NamedTuple):
    """What a step drew."""

    ids: jax.Array  # (B, Q) local ids, or (B, 1) unit ids
    end: jax.Array  # (B,) whether it is the end
    log_prob: jax.Array  # (B,)


def extend(model: Model, weights: Weights, inputs, visible, slot, cache):
    """Hidden states of n further positions (B, n, K), their times and streams; see `decoding`."""
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


def append(
    model: Model,
    weights: Weights,
    state: State,
    ids: jax.Array,
    time: jax.Array,
    stream: jax.Array | int,
    real: jax.Array,
    slot: jax.Array,
    slots: int,
) -> State:
    """The state after one more position.

    Args:
        model: what is compiled for.
        weights: of the model.
        state: before.
        ids: (B, K) ids of the global embedding table.
        time: (B,) ticks; of no meaning where positions are counted.
        stream: of the position.
        real: (B,) bool, rows to which it belongs.
        slot: where it is written.
        slots: of the cache that may hold anything by now.
    """
    if model.positions == "running":
        time = state.length
    visible = jax.lax.dynamic_update_slice_in_dim(state.visible, real[:, None], slot, axis=1)
    streams = jnp.broadcast_to(jnp.asarray(stream, jnp.int32), (len(ids), 1))
    hidden, cache = extend(
        model,
        weights,
        (ids[:, None], time[:, None], streams),
        visible[:, None, :slots],
        slot,
        state.cache,
    )
    return State(cache, visible, hidden[:, 0], state.length + real, time)


def append_frame(
    model: Model, weights: Weights, state: State, turn: Turn, token: Token, slot: jax.Array
) -> State:
    """The state after a frame that is one position (hierarchical, parallel)."""
    return append(
        model,
        weights,
        state,
        token.ids + model.layout.semantic_vocab,
        turn.time,
        ACOUSTIC,
        turn.running & ~token.end,
        slot,
        model.sizes.slots,
    )


class CodeSampler(NamedTuple):
    """Draws codes, one codebook at a time.

    The end is allowed in the first codebook only; other special classes are masked.
    """

    layout: TokenLayout
    heads: tuple[decoding.Linear, ...]
    may_end: jax.Array  # (B,) bool
    settings: sampling.Settings
    variant: sampling.Variant

    def __call__(
        self, hidden: jax.Array, codebook: jax.Array, end: jax.Array, keys: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Draws a code of each row.

        Args:
            hidden: (B, 1, D or d) hidden states that predict it.
            codebook: its number.
            end: (B,) bool, whether an earlier codebook of the frame was the end.
            keys: (B,) random keys of the frame.

        Returns:
            Local ids (B,), whether the frame is the end (B,), and log-probabilities (B,): of the
            code, or of the end where it is one.
        """
        classes = jnp.arange(self.layout.acoustic_classes)
        shape = len(hidden), len(classes)
        codes_only = jnp.broadcast_to((classes >= NUM_SPECIALS)[None], shape)
        first_allowed = codes_only | ((classes == EOS)[None] & self.may_end[:, None])
        # A head is chosen by a branch: sliced out of one array it would be copied.
        heads = [lambda x, head=head: head(x) for head in self.heads]
        logits = jax.lax.switch(codebook, heads, hidden)[:, 0].astype(jnp.float32)
        code_keys = jax.vmap(lambda key: jax.random.fold_in(key, codebook))(keys)
        allowed = jnp.where(codebook == 0, first_allowed, codes_only)
        code, log_prob = sampling.sample(logits, allowed, code_keys, self.settings, self.variant)
        end = end | (code == EOS)
        end_log_prob = jax.nn.log_softmax(logits)[:, EOS]
        ids = jnp.where(end, EOS, code + codebook * self.layout.codebook_size)
        return ids, end, jnp.where(end, end_log_prob, log_prob)


def stream_keys(rows: Rows, kind: int) -> jax.Array:
    """The random stream (B,) of each row for one kind of token."""

    def one(seed: Array, item: Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), item), kind)

    return jax.vmap(one)(rows.seeds, rows.items)
