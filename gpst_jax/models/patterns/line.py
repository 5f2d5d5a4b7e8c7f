"""The line of positions that the backbone reads, with one position for a unit or a frame."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.tokens import ACOUSTIC, TokenLayout

Inputs = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


class Line(NamedTuple):
    """A batch as the backbone reads it: rows of N positions.

    Attributes:
        inputs: ids (B, N, K), PAD where a position has fewer; times or running positions, streams
            and segment numbers (B, N), all int32. Segment 0 is padding.
        frame_index: (B, F) position whose hidden state predicts the first code of each frame.
        place: (B, L) position of the line for each position of the row; None: the same.
    """

    inputs: Inputs
    frame_index: jax.Array
    place: jax.Array | None

    def of_row(self, hidden: jax.Array) -> jax.Array:
        """Hidden states (B, L, D) of the row's positions, from those of the line (B, N, D)."""
        if self.place is None:
            return hidden
        return jnp.take_along_axis(hidden, self.place[:, :, None], axis=1)


class Prefix(NamedTuple):
    """BOS_a and given frames as the decoder reads them: NumPy arrays of n positions.

    Attributes:
        tokens: (n, K) ids of the global embedding table.
        times: (n,) ticks.
        streams: (n,).
    """

    tokens: np.ndarray
    times: np.ndarray
    streams: np.ndarray


class Arrangement:
    """One position per unit and per frame, as rows have them (hierarchical, parallel).

    Sizes are those of `data_pipeline.loading.batches`; Q is the number of codebooks.
    """

    # Whether code q of a frame is predicted q positions after its first code.
    stepwise = False

    def positions(self, frames: int, codebooks: int) -> int:
        """Positions that predict so many frames, the end frame among them."""
        return frames

    def given_positions(self, frames: int, codebooks: int) -> int:
        """Positions that read so many frames before a decoder goes on."""
        return frames

    def line_length(self, length: int, frames: int, codebooks: int) -> int:
        """N, positions of the line for rows of `length` positions and `frames` frames."""
        return length

    def spare_positions(self, codebooks: int) -> int:
        """Positions of the row that packing leaves free for each segment."""
        return 0

    def decode_steps(self, frames: int, codebooks: int) -> int:
        """Steps in which a decoder completes so many frames."""
        return frames

    def num_streams(self, codebooks: int) -> int:
        """Rows of the table of stream embeddings: units, and what frames need."""
        return 2

    def arrange(self, layout: TokenLayout, batch: Mapping[str, jax.Array], tick: int) -> Line:
        """Lays a batch out.

        Args:
            layout: of the tokens.
            batch: "interleaved" of `data_pipeline.loading.batches`.
            tick: ticks of a frame, or 0 where positions are counted (running).
        """
        names = ("tokens", "positions", "streams", "segment_ids")
        tokens, positions, streams, segment_ids = (batch[name] for name in names)
        return Line((tokens, positions, streams, segment_ids), batch["frame_index"], None)

    def prefix(self, layout: TokenLayout, frames: np.ndarray, times: np.ndarray) -> Prefix:
        """BOS_a and given frames.

        Args:
            layout: of the tokens.
            frames: (T, Q) ids of the global embedding table.
            times: (T,) ticks at which they end; empty where positions are counted.
        """
        tokens = np.concatenate([_start(layout, layout.num_codebooks), frames])
        return Prefix(tokens, with_zero(times), np.full(len(tokens), ACOUSTIC, np.int32))


def _start(layout: TokenLayout, width: int) -> np.ndarray:
    return np.full((1, width), layout.bos_acoustic, np.int32)


def with_zero(times: np.ndarray) -> np.ndarray:
    """Times (T,) of frames with that of BOS_a before them."""
    return np.concatenate([np.zeros(1, np.int32), times.astype(np.int32)])


class Spread(NamedTuple):
    """Rows of L positions spread over N, some with further positions after them.

    Attributes:
        place: (B, L) where a position of the row stands.
        origin: (B, N) the last position of the row that stands at or before a place.
        offset: (B, N) places since then.
        real: (B, N) whether the place is the origin's or one of those after it.
    """

    place: jax.Array
    origin: jax.Array
    offset: jax.Array
    real: jax.Array

    def take(self, row: jax.Array) -> jax.Array:
        """Values (B, L) of the origins: (B, N)."""
        return jnp.take_along_axis(row, self.origin, axis=1)


def spread(extra: jax.Array, length: int) -> Spread:
    """Spreads rows.

    Args:
        extra: (B, L) int, places that are put after each position.
        length: N.
    """
    before = jnp.cumsum(extra, axis=1) - extra
    place = jnp.arange(extra.shape[1])[None] + before
    places = jnp.arange(length)
    count = jax.vmap(lambda row: jnp.searchsorted(row, places, side="right"))(place)
    origin = count - 1  # place[0] is 0: every place has one
    offset = places[None] - jnp.take_along_axis(place, origin, axis=1)
    real = offset <= jnp.take_along_axis(extra, origin, axis=1)
    # Padding of a full row may lie beyond the line, where a lookup would give NaN.
    return Spread(jnp.minimum(place, length - 1), origin, offset, real)


def acoustic_positions(batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Which positions (B, L) are of the acoustic stream, and the frame that each predicts."""
    acoustic = (batch["streams"] == ACOUSTIC) & (batch["segment_ids"] > 0)
    count = acoustic.astype(jnp.int32)
    return acoustic, jnp.cumsum(count, axis=1) - count
