"""Rows of a batch from plan and token records."""

import dataclasses
import functools

import numpy as np

from data_pipeline.datasets.token_dataset import DatasetSpec, LengthIndex
from data_pipeline.datasets.token_records import TokenReader
from data_pipeline.loading.dataset_rows import RETRY_SECONDS, ComponentRows
from data_pipeline.packing.token_plan import PackingConfig, PackingPlan, Segment
from data_pipeline.tokens import NO_TARGET, PAD, TokenLayout, segment_tokens


def build_row(
    layout: TokenLayout,
    packing: PackingConfig,
    segments: list[list[tuple[np.ndarray, np.ndarray]]],
) -> dict[str, np.ndarray]:
    """Arrays of one row, padded on the right.

    Args:
        layout: sizes and rates.
        packing: row length L, frame budget F, and how segments are numbered.
        segments: of each segment the parts, (units (S_i,), codes (Q, T_i)).

    Returns:
        int32 arrays. `tokens` (L, Q) ids of the global table, PAD elsewhere; `positions` (L,);
        `streams` (L,) 0 semantic, 1 acoustic; `segment_ids` (L,) from 1, 0 in padding;
        `semantic_targets` (L,) classes, -1 where nothing is predicted; `frames` (F, Q) local ids;
        `frame_index` (F,) position whose hidden predicts the stack; `frame_segments` (F,) from 1,
        0 in padding.
    """
    length, budget = packing.sequence_length, packing.frame_budget
    row = {
        "tokens": np.full((length, layout.num_codebooks), PAD, np.int32),
        "positions": np.zeros(length, np.int32),
        "streams": np.zeros(length, np.int32),
        "segment_ids": np.zeros(length, np.int32),
        "semantic_targets": np.full(length, NO_TARGET, np.int32),
        "frame_index": np.zeros(budget, np.int32),
        "frames": np.full((budget, layout.num_codebooks), PAD, np.int32),
        "frame_segments": np.zeros(budget, np.int32),
    }
    here = frame = 0
    for number, parts in enumerate(segments, start=1):
        segment = segment_tokens(
            layout, parts, positions=packing.positions, deduplicated=packing.deduplicate
        )
        end, frame_end = here + len(segment["tokens"]), frame + len(segment["frames"])
        for name in ("tokens", "positions", "streams", "semantic_targets"):
            row[name][here:end] = segment[name]
        row["segment_ids"][here:end] = number
        row["frames"][frame:frame_end] = segment["frames"]
        row["frame_index"][frame:frame_end] = segment["frame_index"] + here
        row["frame_segments"][frame:frame_end] = number
        here, frame = end, frame_end
    return row


def build_frames_row(
    layout: TokenLayout,
    packing: PackingConfig,
    segments: list[list[tuple[np.ndarray, np.ndarray]]],
) -> dict[str, np.ndarray]:
    """Arrays of one row with units and codes side by side, padded on the right.

    Args:
        layout: sizes and rates; both streams have one rate.
        packing: the frame budget F.
        segments: at most one; of it the parts, (units (S_i,), codes (Q, T_i)).

    Returns:
        int32 arrays: `units` (F,), `codes` (F, Q), and `segment_ids` (F,), 1 on frames and 0 in
        padding. Where the streams of a part differ by a frame, the longer one loses its last.
    """
    row = {
        "units": np.zeros(packing.frame_budget, np.int32),
        "codes": np.zeros((packing.frame_budget, layout.num_codebooks), np.int32),
        "segment_ids": np.zeros(packing.frame_budget, np.int32),
    }
    here = 0
    for units, codes in segments[0] if segments else []:
        end = here + min(len(units), codes.shape[1])
        row["units"][here:end] = units[: end - here]
        row["codes"][here:end] = codes[:, : end - here].T
        row["segment_ids"][here:end] = 1
        here = end
    return row


_BUILDERS = {"interleaved": build_row, "frames": build_frames_row}


@dataclasses.dataclass(frozen=True)
class DatasetRows(ComponentRows):
    """Rows of token records, see `ComponentRows`."""

    @functools.cached_property
    def spec(self) -> DatasetSpec:
        """Of the dataset."""
        return DatasetSpec.load(self.dataset_dir)

    @functools.cached_property
    def _layout(self) -> TokenLayout:
        return self.spec.layout()

    @functools.cached_property
    def _chosen(self) -> tuple[LengthIndex, np.ndarray | None]:
        """Lengths of the records that are read, and their numbers in the split; None is all."""
        index = LengthIndex.load(self.dataset_dir, self.spec, self.split)
        if self.language is None:
            return index, None
        numbers = np.flatnonzero(index.language == index.languages.index(self.language))
        arrays = {name: getattr(index, name)[numbers] for name in LengthIndex.ARRAYS}
        return dataclasses.replace(index, **arrays), numbers

    @property
    def index(self) -> LengthIndex:
        """Lengths of the records that are read."""
        return self._chosen[0]

    @functools.cached_property
    def reader(self) -> TokenReader:
        """Of the whole split."""
        return TokenReader(self.dataset_dir, self.split, RETRY_SECONDS)

    def open_reader(self) -> tuple[TokenReader, DatasetSpec]:
        """The reader of the whole split and the spec of the dataset."""
        spec = self.spec  # first: it says what is wrong with a dataset of another kind
        return self.reader, spec

    def _make_plan(self) -> PackingPlan:
        return PackingPlan(self.packing, self._layout, self.index, self.spec.silence)

    def parts(self, segment: Segment) -> list[tuple[np.ndarray, np.ndarray]]:
        """Units and codes of the pieces of a segment, with silence between them."""
        silence = (
            np.array(self.spec.silence.units, np.uint16),
            np.array(self.spec.silence.codes, np.uint16),
        )
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        for piece in segment.pieces:
            if parts:
                parts.append(silence)
            number = piece.record
            sizes = int(self.index.units[number]), int(self.index.frames[number])
            place = number if self._chosen[1] is None else int(self._chosen[1][number])
            units, codes = self.reader.read(place, *sizes)
            parts.append((units[slice(*piece.units)], codes[:, slice(*piece.frames)]))
        return parts

    def row(self, number: int) -> dict[str, np.ndarray]:
        """Arrays of a row, see `build_row` and `build_frames_row`."""
        return self.build([self.parts(segment) for segment in self.plan.row(number)])

    def build(self, segments: list[list[tuple[np.ndarray, np.ndarray]]]) -> dict[str, np.ndarray]:
        """Arrays of a row of the given segments, as the packing arranges them."""
        return _BUILDERS[self.packing.arrangement](self._layout, self.packing, segments)

    def empty_row(self) -> dict[str, np.ndarray]:
        """Arrays of a row that holds nothing."""
        return self.build([])
