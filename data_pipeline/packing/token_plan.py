"""The packing plan of a token dataset: which part of which record is in which row.

A plan is a pure function of (seed, epoch, length index). Each epoch it shuffles every speaker's
records, concatenates them into a line with a short silence between two, cuts the line into segments
of the crop length with the remainder at a random end, and packs segments into rows. Rows are
numbered, so the state of a reader is one number, any number of hosts reads the same rows, and
resume is exact. No record is read: lengths are enough.

Time on a line is in ticks, the least common multiple of both token rates, and a record lasts as
long as the longer of its two streams, so that one length bounds both.
"""

import dataclasses
import hashlib
import json
import math

import numpy as np

from data_pipeline.datasets.token_dataset import UNKNOWN_SPEAKER, LengthIndex, SilenceSpec
from data_pipeline.packing.first_fit import pack, reorder_rows
from data_pipeline.packing.plan import RandomKeys, RowPlan
from data_pipeline.packing.segments import Segments, join_pieces, join_whole
from data_pipeline.runtime.errors import UserError
from data_pipeline.tokens import TokenLayout, deduplicate

# Part of the fingerprint: raise it with any change that alters a plan.
PLAN_VERSION = 1
# Shortest piece that a cut may leave: long enough to be audible.
_MIN_PIECE_SECONDS = 0.1
# Speakers with more segments than this get several lines, which are cut in parallel.
_SEGMENTS_PER_LINE = 256


@dataclasses.dataclass(frozen=True)
class PackingConfig:
    """How records become rows.

    Attributes:
        sequence_length: L, positions of a row.
        frame_budget: F, predicted frames of a row, including the end frame of each segment.
        crop_seconds: longest segment.
        deduplicate: the loader collapses repeated units; records are then used whole, since the
            collapsed length of a part of a record is not known in advance.
        positions: `time` or `running`, see `tokens.segment_tokens`.
        join_speakers: fill segments up with further records of the same speaker.
        seed: seeds record order, cuts and rows.
        arrangement: `interleaved`, several segments a row, the units of each before its frames;
            `frames`, one segment a row, unit and codes side by side; `sequences`, text and units
            of a sequence dataset. `loading.batches` documents the arrays of each.
        units: `front`, or `none`: segments (`interleaved`) hold frames alone.
        spare_positions: positions of a row (`interleaved`) left free for each of its segments, into
            which a model spreads it (codebook pattern `delay`).
    """

    sequence_length: int
    frame_budget: int
    crop_seconds: float
    deduplicate: bool = False
    positions: str = "time"
    join_speakers: bool = True
    seed: int = 0
    arrangement: str = "interleaved"
    units: str = "front"
    spare_positions: int = 0

    def __post_init__(self) -> None:
        """Checks the values; raises UserError."""
        if self.arrangement not in ("interleaved", "frames", "sequences"):
            raise UserError(
                f"arrangement must be interleaved, frames or sequences, not {self.arrangement!r}"
            )
        if self.arrangement == "frames" and self.deduplicate:
            raise UserError(
                "deduplicate: with arrangement frames every frame needs its unit, set it to false"
            )
        if self.units not in ("front", "none"):
            raise UserError(f"units must be front or none, not {self.units!r}")
        if self.units == "none" and (self.arrangement != "interleaved" or self.deduplicate):
            raise UserError("units none: for arrangement interleaved alone, without deduplicate")
        for name in ("sequence_length", "frame_budget", "crop_seconds"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} must be positive, is {getattr(self, name)}")
        if self.positions not in ("time", "running"):
            raise UserError(f"positions must be time or running, not {self.positions!r}")
        if self.deduplicate and self.positions == "time":
            raise UserError("de-duplicated units have no durations: set positions to running")


@dataclasses.dataclass(frozen=True)
class Piece:
    """Part of one record: its units and frames of the same time span.

    Attributes:
        record: number in the length index.
        units: half-open range of its raw units.
        frames: half-open range of its frames.
    """

    record: int
    units: tuple[int, int]
    frames: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Segment:
    """Pieces of one speaker, with encoded silence between two; attention stays within it."""

    pieces: tuple[Piece, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class _Epoch:
    """The plan of one epoch: its segments, and those of every row."""

    segments: Segments
    row_segments: np.ndarray  # segment numbers, row after row
    row_starts: np.ndarray  # (rows + 1,) offsets into row_segments
    positions: int  # that are not padding, over all rows
    frames: int  # predicted frames, likewise

    @property
    def num_rows(self) -> int:
        return len(self.row_starts) - 1


class PackingPlan(RowPlan[_Epoch]):
    """Rows of segments over endless epochs. Safe to use from several threads."""

    def __init__(
        self,
        config: PackingConfig,
        layout: TokenLayout,
        index: LengthIndex,
        silence: SilenceSpec,
    ):
        """Checks that every possible segment fits a row.

        Raises:
            UserError: the index is empty, or the budgets are too small; the message states the
                required sizes.
        """
        super().__init__()
        if not len(index):
            raise UserError("the split has no records")
        self.config: PackingConfig = config
        self.layout = layout
        self._index = index
        self._silence = silence
        unit, frame = layout.ticks_per_unit, layout.ticks_per_frame
        # Multiples of this many units are boundaries of both streams, if that is fine enough.
        grid = frame // math.gcd(unit, frame)
        self._grid = grid if grid * unit <= layout.tick_rate * _MIN_PIECE_SECONDS else 1
        self._min_units = math.ceil(_MIN_PIECE_SECONDS * layout.unit_rate)
        self._crop = math.floor(config.crop_seconds * layout.tick_rate)
        if self._grid != grid:
            self._crop -= frame  # a piece may then begin in the middle of a frame
        self._gap = max(len(silence.units) * unit, len(silence.codes[0]) * frame)
        self._check_budgets()

    def _check_budgets(self) -> None:
        config, unit, frame = self.config, self.layout.ticks_per_unit, self.layout.ticks_per_frame
        smallest = (2 * self._min_units + 2 * self._grid) * unit
        if self._crop < smallest:
            least = math.ceil(100 * (smallest + frame) / self.layout.tick_rate) / 100
            raise UserError(f"crop_seconds {config.crop_seconds} is too short: use {least} or more")
        if config.deduplicate:
            self._check_whole_records()
            return
        frames = self._crop // frame
        if config.arrangement == "frames":
            self._check_frames(frames)
            return
        units = self._crop // unit if config.units == "front" else 0
        length = 2 + units + frames + config.spare_positions
        if config.sequence_length < length or config.frame_budget < frames + 1:
            raise UserError(
                f"a segment of crop_seconds {config.crop_seconds} takes up to {length} positions "
                f"and {frames + 1} predicted frames, a row has sequence_length "
                f"{config.sequence_length} and frame_budget {config.frame_budget}: "
                "raise these or lower crop_seconds"
            )

    def _check_frames(self, frames: int) -> None:
        layout, budget = self.layout, self.config.frame_budget
        if layout.ticks_per_unit != layout.ticks_per_frame:
            raise UserError(
                f"units at {layout.unit_rate:g} Hz cannot be paired with frames at "
                f"{layout.frame_rate:g} Hz: tokenise with both at one rate"
            )
        if budget < frames:
            raise UserError(
                f"a segment of crop_seconds {self.config.crop_seconds} takes up to {frames} "
                f"frames, a row has frame_budget {budget}: raise it or lower crop_seconds"
            )

    def _check_whole_records(self) -> None:
        config, rate = self.config, self.layout.tick_rate
        durations, start = self._durations(), 2 + config.spare_positions
        lengths = self._index.units_dedup + self._index.frames + start
        longest = (int(durations.max()), int(lengths.max()), int(self._index.frames.max()) + 1)
        if any(np.greater(longest, (self._crop, config.sequence_length, config.frame_budget))):
            raise UserError(
                f"deduplicate takes whole records, the longest of which need crop_seconds "
                f"{math.ceil(1000 * longest[0] / rate) / 1000}, sequence_length {longest[1]} and "
                f"frame_budget {longest[2]}; they are {config.crop_seconds}, "
                f"{config.sequence_length} and {config.frame_budget}: raise "
                "them, or tokenise with a smaller chunk_seconds"
            )

    def _fingerprint(self) -> str:
        settings = dataclasses.asdict(self.config)
        # The field's former name: fingerprints in checkpoints stay valid.
        settings["row_length"] = settings.pop("sequence_length")
        if self.config.arrangement == "interleaved":
            del settings["arrangement"]  # as when it was the only one
        if not self.config.spare_positions:
            del settings["spare_positions"]  # as when there were none
        if self.config.units == "front":
            del settings["units"]  # as when there was no choice
        content = {
            "version": PLAN_VERSION,
            "config": settings,
            "layout": dataclasses.asdict(self.layout),
            "silence": dataclasses.asdict(self._silence),
            "speakers": self._index.speakers,
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
        for name in ("units", "units_dedup", "frames", "speaker"):
            digest.update(getattr(self._index, name).tobytes())
        return digest.hexdigest()

    def efficiency(self, epoch: int = 0) -> dict[str, float]:
        """Fractions of an epoch's positions and predicted frames that are not padding."""
        plan, config = self._plan(epoch), self.config
        length = config.frame_budget if config.arrangement == "frames" else config.sequence_length
        return {
            "positions": plan.positions / (plan.num_rows * length),
            "frames": plan.frames / (plan.num_rows * config.frame_budget),
        }

    def row(self, row: int) -> list[Segment]:
        """The segments of a row, 0 <= row."""
        epoch, first = self.locate(row)
        plan = self._plan(epoch)
        start, stop = plan.row_starts[row - first : row - first + 2]
        return [self._segment(plan.segments, s) for s in plan.row_segments[start:stop]]

    def _segment(self, segments: Segments, number: int) -> Segment:
        first, last = int(segments.first[number]), int(segments.last[number])
        pieces = []
        for place in range(first, last + 1):
            record = int(segments.order[place])
            size, frames = int(self._index.units[record]), int(self._index.frames[record])
            start = int(segments.start[number]) if place == first else 0
            stop = int(segments.stop[number]) if place == last else size
            begin = min(self.layout.frame_at_unit(start), frames)
            end = frames if stop == size else min(self.layout.frame_at_unit(stop), frames)
            if self._grid * self.layout.ticks_per_unit % self.layout.ticks_per_frame:
                # The cut may fall inside a frame, which is then part of both pieces.
                end = min(end, begin + self.layout.frame_at_unit(stop - start) + 1)
            pieces.append(Piece(record, (start, stop), (begin, end)))
        return Segment(tuple(pieces))

    def _durations(self) -> np.ndarray:
        """Duration of every record in ticks, (R,) int64."""
        units = self._index.units.astype(np.int64) * self.layout.ticks_per_unit
        return np.maximum(units, self._index.frames.astype(np.int64) * self.layout.ticks_per_frame)

    def _make(self, number: int) -> _Epoch:
        random = RandomKeys(self.config.seed, number)
        segments = self._join(random)
        units, frames = self._totals(segments)
        if self.config.arrangement == "frames":
            order, starts = random.permutation(len(frames)), np.arange(len(frames) + 1)
            return _Epoch(segments, order, starts, int(frames.sum()), int(frames.sum()))
        positions, predicted = 2 + units + frames + self.config.spare_positions, frames + 1
        row_segments, row_starts = pack(
            positions,
            predicted,
            self.config.sequence_length,
            self.config.frame_budget,
            random.permutation(len(positions)),
        )
        row_segments, row_starts = reorder_rows(
            row_segments, row_starts, random.permutation(len(row_starts) - 1)
        )
        return _Epoch(
            segments, row_segments, row_starts, int(positions.sum()), int(predicted.sum())
        )

    def _join(self, random: RandomKeys) -> Segments:
        config, index = self.config, self._index
        order = random.permutation(len(index))
        speakers = index.speaker[order]
        by_speaker = np.argsort(speakers, kind="stable")
        order, speakers = order[by_speaker], speakers[by_speaker]
        durations = self._durations()[order]
        starts = self._line_starts(speakers, durations)
        if not config.deduplicate:
            return join_pieces(
                order,
                index.units[order],
                durations,
                starts,
                remainder_first=random.bits(len(starts)),
                crop=self._crop,
                gap=self._gap,
                ticks_per_unit=self.layout.ticks_per_unit,
                grid=self._grid,
                min_units=self._min_units,
            )
        gap_units = len(deduplicate(np.array(self._silence.units))[0])
        gap_frames = len(self._silence.codes[0])
        frames = index.frames[order].astype(np.int64)
        return join_whole(
            order,
            index.units[order],
            starts,
            measures=(
                (durations, self._gap, self._crop),
                (
                    index.units_dedup[order] + frames,
                    gap_units + gap_frames,
                    config.sequence_length - 2 - config.spare_positions,
                ),
                (frames, gap_frames, config.frame_budget - 1),
            ),
        )

    def _line_starts(self, speakers: np.ndarray, durations: np.ndarray) -> np.ndarray:
        """Places at which lines begin: at a new speaker, and within a speaker of many segments."""
        if not self.config.join_speakers:
            return np.arange(len(speakers))
        new = np.empty(len(speakers), bool)
        new[0] = True
        new[1:] = speakers[1:] != speakers[:-1]
        total = np.cumsum(durations + self._gap)
        begun = np.repeat(
            (total - durations)[new], np.diff(np.append(np.flatnonzero(new), len(new)))
        )
        part = (total - durations - begun) // (_SEGMENTS_PER_LINE * self._crop)
        new[1:] |= part[1:] != part[:-1]
        if UNKNOWN_SPEAKER in self._index.speakers:
            new |= speakers == self._index.speakers.index(UNKNOWN_SPEAKER)
        return np.flatnonzero(new)

    def _totals(self, segments: Segments) -> tuple[np.ndarray, np.ndarray]:
        """Units (collapsed if `deduplicate`) and frames of every segment, silence included."""
        index, layout = self._index, self.layout
        order, first, last = segments.order, segments.first, segments.last
        joints = (last - first).astype(np.int64)
        frames = _exclusive_sum(index.frames[order])
        begin = segments.start * layout.ticks_per_unit // layout.ticks_per_frame
        end = segments.stop * layout.ticks_per_unit // layout.ticks_per_frame
        size, most = index.units[order[last]], index.frames[order[last]]
        end = np.where(segments.stop == size, most, np.minimum(end, most))
        total_frames = frames[last] + end - frames[first] - begin
        total_frames += joints * len(self._silence.codes[0])
        if self.config.units == "none":
            return np.zeros_like(total_frames), total_frames
        if self.config.deduplicate:
            units = _exclusive_sum(index.units_dedup[order])
            total_units = units[last + 1] - units[first]
            joint_units = len(deduplicate(np.array(self._silence.units))[0])
        else:
            units = _exclusive_sum(index.units[order])
            total_units = units[last] + segments.stop - units[first] - segments.start
            joint_units = len(self._silence.units)
        return total_units + joints * joint_units, total_frames


def _exclusive_sum(values: np.ndarray) -> np.ndarray:
    """Sums (n + 1,) int64 of the values before each place."""
    return np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
