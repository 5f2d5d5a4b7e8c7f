"""Token layout of GPST: the id arithmetic of both streams and its inverse (pure NumPy).

A segment holds the units of the semantic stream, then the frames of the acoustic stream:

    BOS_s  s_1 .. s_S  BOS_a  a_1 .. a_T

Every position has Q ids, one per codebook. BOS_s and the units use codebook 0 and pad the others;
BOS_a repeats the acoustic end id Q times; a frame has one id per codebook. The hidden state at
BOS_a predicts frame 1, that of frame t predicts frame t + 1, and that of the last frame predicts a
frame of end ids (arXiv 2406.00976, section 3; layout of the official code).
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

# Special ids, the same in both vocabularies. EOS doubles as the BOS of each stream.
BOS, PAD, EOS, UNK, NUM_SPECIALS = 0, 1, 2, 3, 4

SEMANTIC, ACOUSTIC = 0, 1
NO_TARGET = -1


@dataclasses.dataclass(frozen=True)
class TokenLayout:
    """Sizes and rates of the two token streams, and the ids that follow from them.

    Attributes:
        num_units: size of the semantic vocabulary without special ids.
        num_codebooks: Q, residual codebooks per acoustic frame.
        codebook_size: N, entries of each codebook.
        unit_rate: raw semantic units per second.
        frame_rate: acoustic frames per second.
    """

    num_units: int
    num_codebooks: int
    codebook_size: int
    unit_rate: float = 50.0
    frame_rate: float = 75.0

    @property
    def semantic_vocab(self) -> int:
        """V_s: special ids and units; also the number of classes of the semantic head."""
        return NUM_SPECIALS + self.num_units

    @property
    def acoustic_vocab(self) -> int:
        """V_a: special ids, and one id per entry of every codebook."""
        return NUM_SPECIALS + self.num_codebooks * self.codebook_size

    @property
    def global_vocab(self) -> int:
        """Rows of the global embedding table, in which acoustic ids are shifted by V_s."""
        return self.semantic_vocab + self.acoustic_vocab

    @property
    def acoustic_classes(self) -> int:
        """Classes of the acoustic head of one codebook, special ids included."""
        return NUM_SPECIALS + self.codebook_size

    @property
    def bos_acoustic(self) -> int:
        """Global id of BOS_a, in every codebook: it opens the acoustic stream."""
        return EOS + self.semantic_vocab

    @functools.cached_property
    def tick_rate(self) -> Fraction:
        """Ticks per second: the least common multiple of both rates (150 for 50 and 75)."""
        unit, frame = _rate(self.unit_rate), _rate(self.frame_rate)
        return Fraction(
            math.lcm(unit.numerator, frame.numerator),
            math.gcd(unit.denominator, frame.denominator),
        )

    @functools.cached_property
    def ticks_per_unit(self) -> int:
        """Duration of a raw unit in ticks."""
        return int(self.tick_rate / _rate(self.unit_rate))

    @functools.cached_property
    def ticks_per_frame(self) -> int:
        """Duration of a frame in ticks."""
        return int(self.tick_rate / _rate(self.frame_rate))

    @functools.cached_property
    def _frames_per_unit(self) -> Fraction:
        return _rate(self.frame_rate) / _rate(self.unit_rate)

    @property
    def units_per_step(self) -> int:
        """Fewest raw units that last a whole number of frames."""
        return self._frames_per_unit.denominator

    def frames_for_units(self, num_units: int) -> int:
        """Frames that last as long as `num_units` raw units, rounded up."""
        return math.ceil(num_units * self._frames_per_unit)

    def frame_at_unit(self, unit: int) -> int:
        """First frame of a crop that starts at raw unit `unit`, rounded down."""
        return math.floor(unit * self._frames_per_unit)

    def units_to_ids(self, units: np.ndarray) -> np.ndarray:
        """Units (S,) to semantic ids (S,) int32."""
        units = np.asarray(units).astype(np.int32)
        _check_range(units, self.num_units, "semantic unit")
        return units + NUM_SPECIALS

    def ids_to_units(self, ids: np.ndarray) -> np.ndarray:
        """Inverse of `units_to_ids`; special ids are an error."""
        units = np.asarray(ids).astype(np.int32) - NUM_SPECIALS
        _check_range(units, self.num_units, "semantic unit")
        return units

    def codes_to_ids(self, codes: np.ndarray) -> np.ndarray:
        """Codes (Q, T) to local ids (T, Q) int32; the ids of two codebooks never coincide."""
        codes = np.asarray(codes).astype(np.int32)
        if codes.ndim != 2 or codes.shape[0] != self.num_codebooks:
            raise ValueError(f"codes must be ({self.num_codebooks}, T), are {codes.shape}")
        _check_range(codes, self.codebook_size, "acoustic code")
        return (codes + self.code_offsets()[:, None]).T

    def ids_to_codes(self, ids: np.ndarray) -> np.ndarray:
        """Inverse of `codes_to_ids`: local ids (T, Q) to codes (Q, T)."""
        codes = np.asarray(ids).astype(np.int32).T - self.code_offsets()[:, None]
        _check_range(codes, self.codebook_size, "acoustic code")
        return codes

    def code_offsets(self) -> np.ndarray:
        """Local id of code 0 of every codebook: (Q,) int32."""
        return NUM_SPECIALS + np.arange(self.num_codebooks, dtype=np.int32) * self.codebook_size

    def ids_to_classes(self, ids: np.ndarray) -> np.ndarray:
        """Local ids (..., Q) to head classes: code c to c + 4, EOS to 2 in every codebook."""
        ids = np.asarray(ids)
        shift = np.arange(self.num_codebooks, dtype=ids.dtype) * self.codebook_size
        return np.maximum(ids - shift, EOS)


def deduplicate(units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Collapses runs of repeated units.

    Args:
        units: (S,) raw units.

    Returns:
        The collapsed units (S',) and the run lengths (S',); `np.repeat` restores the input.
    """
    units = np.asarray(units)
    if units.size == 0:
        return units, np.zeros(0, np.int64)
    starts = np.flatnonzero(np.concatenate([[True], units[1:] != units[:-1]]))
    return units[starts], np.diff(np.append(starts, units.size))


def segment_tokens(
    layout: TokenLayout,
    parts: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    positions: str = "time",
    deduplicated: bool = False,
    with_units: bool = True,
) -> dict[str, np.ndarray]:
    """Arrays of one segment.

    Args:
        layout: sizes and rates.
        parts: parallel spans of both streams in order, each (units (S_i,), codes (Q, T_i)); joined
            utterances have 0.1 s of encoded silence between them. Both streams of a part start
            at the same time, so that rounding does not accumulate over joins.
        positions: "time" gives units and frames their end times in ticks, and both BOS tick 0;
            "running" counts positions.
        deduplicated: collapse repeated units of each part (needs "running").
        with_units: False leaves the units out; BOS_s stays and predicts nothing.

    Returns:
        int32 arrays without padding, named and meant as in `data_pipeline.loading.batches`:
        `tokens` (n, Q), `positions`, `streams` and `semantic_targets` (n,), and of the T + 1
        predicted frames `frames` (T+1, Q) and `frame_index` (T+1,), counted within the segment.
    """
    if positions not in ("time", "running"):
        raise ValueError(f"positions must be 'time' or 'running', not {positions!r}")
    if deduplicated and positions == "time":
        raise ValueError("de-duplicated units have no durations: use positions='running'")
    if not with_units:
        parts = [(np.zeros(0, np.int32), codes) for _, codes in parts]
    unit_parts = [np.asarray(units) for units, _ in parts]
    if deduplicated:
        unit_parts = [deduplicate(units)[0] for units in unit_parts]
    units = np.concatenate([np.zeros(0, np.int32), *unit_parts])
    codes = np.concatenate(
        [np.zeros((layout.num_codebooks, 0), np.int32), *(np.asarray(c) for _, c in parts)], axis=1
    )
    semantic, frames = layout.units_to_ids(units), layout.codes_to_ids(codes)
    num_units, num_frames = len(semantic), len(frames)

    length = num_units + num_frames + 2
    tokens = np.full((length, layout.num_codebooks), PAD, np.int32)
    tokens[0, 0] = EOS
    tokens[1 : num_units + 1, 0] = semantic
    tokens[num_units + 1] = layout.bos_acoustic
    tokens[num_units + 2 :] = frames + layout.semantic_vocab

    targets = np.full(length, NO_TARGET, np.int32)
    targets[:num_units] = semantic
    targets[num_units] = EOS if with_units else NO_TARGET

    streams = np.full(length, SEMANTIC, np.int32)
    streams[num_units + 1 :] = ACOUSTIC

    if positions == "running":
        index = np.arange(length, dtype=np.int32)
    else:
        lengths = [(len(u), np.asarray(c).shape[1]) for u, c in parts]
        unit_times, frame_times = part_times(layout, lengths)
        index = np.concatenate([[0], unit_times, [0], frame_times]).astype(np.int32)
    end = np.full((1, layout.num_codebooks), EOS, np.int32)
    return {
        "tokens": tokens,
        "positions": index,
        "streams": streams,
        "semantic_targets": targets,
        "frames": np.concatenate([frames.astype(np.int32), end]),
        "frame_index": np.arange(num_units + 1, length, dtype=np.int32),
    }


def part_times(
    layout: TokenLayout, lengths: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """End times in ticks of the units and frames of consecutive parts.

    Args:
        layout: sizes and rates.
        lengths: (raw units, frames) of each part. A part starts where the longer stream of the
            previous part ends.

    Returns:
        Two int32 arrays: one time per unit and one per frame.
    """
    unit_times: list[np.ndarray] = [np.zeros(0, np.int32)]
    frame_times: list[np.ndarray] = [np.zeros(0, np.int32)]
    start = 0
    for num_units, num_frames in lengths:
        unit_times.append(start + (np.arange(num_units) + 1) * layout.ticks_per_unit)
        frame_times.append(start + (np.arange(num_frames) + 1) * layout.ticks_per_frame)
        start += max(num_units * layout.ticks_per_unit, num_frames * layout.ticks_per_frame)
    return np.concatenate(unit_times), np.concatenate(frame_times)


def _rate(rate: float) -> Fraction:
    if rate <= 0:
        raise ValueError(f"a frame rate must be positive, is {rate}")
    return Fraction(rate).limit_denominator(1000)


def _check_range(values: np.ndarray, size: int, name: str) -> None:
    if values.size and (values.min() < 0 or values.max() >= size):
        raise ValueError(
            f"{name} out of range: found {values.min()} to {values.max()}, allowed 0 to {size - 1}"
        )
