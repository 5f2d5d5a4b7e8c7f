"""The flat pattern: every code of every frame is a position (AudioLM, arXiv 2209.03143).

    BOS_s  units  BOS_a  a_1^1 .. a_1^Q  a_2^1 ..  a_T^Q  EOS ..

The position at which frame t stood becomes Q positions: the k-th predicts code k of frame t, and
reads the code before it, or BOS_a. The end frame has Q codes like any other, so that losses are
counted as in all patterns; the last of them is not read.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.tokens import ACOUSTIC, PAD, SEMANTIC, TokenLayout
from gpst_jax.models.patterns.line import (
    Arrangement,
    Line,
    Prefix,
    acoustic_positions,
    spread,
    with_zero,
)

_TILE = 128  # attention kernels of TPUs need multiples of it


class Flat(Arrangement):
    """One position per code. Stream 1 + q marks the positions that predict codebook q.

    All codes of a frame have the time at which it begins. A row of L positions and at most F
    frames fits L + (Q - 1) F positions however long its segments are, so the same rows are read as
    for the hierarchical pattern.
    """

    stepwise = True

    def positions(self, frames: int, codebooks: int) -> int:
        """Q for each frame."""
        return frames * codebooks

    def given_positions(self, frames: int, codebooks: int) -> int:
        """Q for each frame."""
        return frames * codebooks

    def line_length(self, length: int, frames: int, codebooks: int) -> int:
        """L + (Q - 1) F, rounded up to whole tiles of attention."""
        return -(-(length + (codebooks - 1) * frames) // _TILE) * _TILE

    def num_streams(self, codebooks: int) -> int:
        """Units, and each codebook."""
        return 1 + codebooks

    def arrange(self, layout: TokenLayout, batch: Mapping[str, jax.Array], tick: int) -> Line:
        """See `Arrangement.arrange`; a position has one id."""
        depth, (rows, frames, _) = layout.num_codebooks, batch["frames"].shape
        acoustic, frame = acoustic_positions(batch)
        length = self.line_length(acoustic.shape[1], frames, depth)
        line = spread(acoustic * (depth - 1), length)
        of_frame = line.take(acoustic) & line.real
        codebook = jnp.where(of_frame, line.offset, 0)
        # The first code of a frame is predicted from the last one of the frame before, or BOS_a.
        tokens = batch["tokens"]
        first = line.take(jnp.where(acoustic, tokens[:, :, -1], tokens[:, :, 0]))
        codes = batch["frames"].reshape(rows, -1) + layout.semantic_vocab
        number = jnp.clip(line.take(frame) * depth + codebook - 1, 0, frames * depth - 1)
        ids = jnp.where(codebook > 0, jnp.take_along_axis(codes, number, axis=1), first)
        positions = line.take(batch["positions"])
        if not tick:
            numbers = _number_in_segment(batch["frame_segments"])
            known = jnp.minimum(line.take(frame), frames - 1)
            earlier = jnp.take_along_axis(numbers, known, axis=1) * (depth - 1)
            positions = positions + jnp.where(of_frame, earlier + codebook, 0)
        return Line(
            (
                jnp.where(line.real, ids, PAD)[:, :, None],
                positions,
                jnp.where(of_frame, ACOUSTIC + codebook, SEMANTIC),
                jnp.where(line.real, line.take(batch["segment_ids"]), 0),
            ),
            jnp.take_along_axis(line.place, batch["frame_index"], axis=1),
            line.place,
        )

    def prefix(self, layout: TokenLayout, frames: np.ndarray, times: np.ndarray) -> Prefix:
        """See `Arrangement.prefix`."""
        depth = layout.num_codebooks
        tokens = np.concatenate([[layout.bos_acoustic], frames.reshape(-1)])[:, None]
        # Position n predicts code n % Q of frame n // Q, which begins where the one before ends.
        streams = ACOUSTIC + np.arange(len(tokens), dtype=np.int32) % depth
        starts = np.repeat(with_zero(times), depth)[: len(tokens)]
        return Prefix(tokens.astype(np.int32), starts, streams)


def _number_in_segment(segments: jax.Array) -> jax.Array:
    """Number, from 0, of each predicted frame (B, F) in its segment."""
    at = jnp.broadcast_to(jnp.arange(segments.shape[1])[None], segments.shape)
    before = jnp.pad(segments[:, :-1], ((0, 0), (1, 0)))
    return at - jax.lax.cummax(jnp.where(segments != before, at, 0), axis=1)
