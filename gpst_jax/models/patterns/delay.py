"""The delay pattern: codebook q is q frames late (MusicGen, arXiv 2306.05284, section 2.2).

    position    BOS_a   1        2        3       ..    T + 1    T + 2
    codebook 0  BOS_a   a_1^0    a_2^0    a_3^0   ..    EOS
    codebook 1  BOS_a   -        a_1^1    a_2^1   ..    a_T^1    EOS
    codebook 2  BOS_a   -        -        a_1^2   ..             a_T^2

Every position predicts one code of each codebook, those of the position after it. A segment of T
frames and its end frame take Q - 1 positions more than in the hierarchical pattern.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.tokens import ACOUSTIC, PAD, TokenLayout
from gpst_jax.models.patterns.line import (
    Arrangement,
    Line,
    Prefix,
    acoustic_positions,
    spread,
    with_zero,
)


class Delay(Arrangement):
    """One position per step. Packing leaves Q - 1 positions free for each segment.

    So the line is as long as the row. A line with room for as many segments as a row could ever
    have would be mostly padding; with the room counted by packing nothing is lost.
    """

    stepwise = True

    def positions(self, frames: int, codebooks: int) -> int:
        """One for each frame, and Q - 1 in which the later codebooks finish."""
        return frames + codebooks - 1

    def spare_positions(self, codebooks: int) -> int:
        """Q - 1, see `positions`."""
        return codebooks - 1

    def decode_steps(self, frames: int, codebooks: int) -> int:
        """A frame is complete Q - 1 steps after its first code."""
        return frames + codebooks - 1

    def arrange(self, layout: TokenLayout, batch: Mapping[str, jax.Array], tick: int) -> Line:
        """See `Arrangement.arrange`; the rows have room after their segments."""
        depth, segments = layout.num_codebooks, batch["segment_ids"]
        acoustic, frame = acoustic_positions(batch)
        before = jnp.pad(jnp.where(acoustic, segments, 0)[:, :-1], ((0, 0), (1, 0)))
        first = acoustic & (segments != before)
        after = jnp.pad(segments[:, 1:], ((0, 0), (0, 1)))
        last = acoustic & (segments != after)
        line = spread(last * (depth - 1), segments.shape[1])
        segment_ids = jnp.where(line.real, line.take(segments), 0)
        tokens = jnp.take_along_axis(batch["tokens"], line.origin[:, :, None], axis=1)
        begins = line.take(first) & (line.offset == 0)
        # Where frame k is predicted, code q of frame k - 1 - q is read.
        number = (line.take(frame) + line.offset)[:, :, None] - 1 - jnp.arange(depth)[None, None]
        known = jnp.clip(number, 0, batch["frames"].shape[1] - 1)
        of_frame = jnp.take_along_axis(batch["frame_segments"][:, :, None], known, axis=1)
        own = (known == number) & (of_frame == segment_ids[:, :, None])
        codes = jnp.take_along_axis(batch["frames"], known, axis=1) + layout.semantic_vocab
        reads_codes = (line.take(acoustic) & ~begins)[:, :, None]
        ids = jnp.where(reads_codes, jnp.where(own, codes, PAD), tokens)
        return Line(
            (
                jnp.where(line.real[:, :, None], ids, PAD),
                line.take(batch["positions"]) + line.offset * (tick or 1),
                line.take(batch["streams"]),
                segment_ids,
            ),
            jnp.take_along_axis(line.place, batch["frame_index"], axis=1),
            line.place,
        )

    def prefix(self, layout: TokenLayout, frames: np.ndarray, times: np.ndarray) -> Prefix:
        """See `Arrangement.prefix`: the steps up to that of the last frame's first code."""
        tokens = np.full((1 + len(frames), layout.num_codebooks), PAD, np.int32)
        tokens[0] = layout.bos_acoustic
        for codebook in range(layout.num_codebooks):
            late = frames[: max(len(frames) - codebook, 0), codebook]
            tokens[1 + codebook : 1 + codebook + len(late), codebook] = late
        return Prefix(tokens, with_zero(times), np.full(len(tokens), ACOUSTIC, np.int32))


def undelayed(steps: np.ndarray) -> np.ndarray:
    """Frames (B, T, Q) of steps (B, T + Q - 1, Q), in which codebook q is q steps late."""
    depth = steps.shape[2]
    count = steps.shape[1] - depth + 1
    return np.stack([steps[:, q : q + count, q] for q in range(depth)], axis=2)
