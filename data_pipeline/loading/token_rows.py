"""Rows of a batch from the packing plan and token records."""

import dataclasses
import functools

import numpy as np

from data_pipeline.datasets.token_dataset import DatasetSpec, LengthIndex
from data_pipeline.datasets.token_records import TokenReader
from data_pipeline.loading.batches import padding_arrays
from data_pipeline.loading.dataset_rows import RETRY_SECONDS, ComponentRows
from data_pipeline.packing.token_plan import PackingConfig, PackingPlan, Segment
from data_pipeline.tokens import TokenLayout, segment_tokens


def build_row(
    layout: TokenLayout,
    packing: PackingConfig,
    segments: list[list[tuple[np.ndarray, np.ndarray]]],
) -> dict[str, np.ndarray]:
    """One row of the arrangement "interleaved", see `batches`.

    Args:
        layout: sizes and rates.
        packing: sequence length L, frame budget F, and how positions are counted.
        segments: of each segment the parts, (units (S_i,), codes (Q, T_i)).
    """
    row = padding_arrays(
        "interleaved",
        L=packing.sequence_length,
        F=packing.frame_budget,
        Q=layout.num_codebooks,
    )
    here = frame = 0
    for number, parts in enumerate(segments, start=1):
        segment = segment_tokens(
            layout,
            parts,
            positions=packing.positions,
            deduplicated=packing.deduplicate,
            with_units=packing.units == "front",
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
    """One row of the arrangement "frames", see `batches`.

    Where the streams of a part differ by a frame, the longer one loses its last.

    Args:
        layout: sizes and rates; both streams have one rate.
        packing: the frame budget F.
        segments: at most one; its parts, (units (S_i,), codes (Q, T_i)).
    """
    row = padding_arrays("frames", F=packing.frame_budget, Q=layout.num_codebooks)
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
        """Spec of the dataset."""
        return DatasetSpec.load(self.dataset_dir)

    @functools.cached_property
    def _layout(self) -> TokenLayout:
        return self.spec.layout()

    @functools.cached_property
    def _selection(self) -> tuple[LengthIndex, np.ndarray | None]:
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
        return self._selection[0]

    @functools.cached_property
    def reader(self) -> TokenReader:
        """Reader of the complete split."""
        return TokenReader(self.dataset_dir, self.split, RETRY_SECONDS)

    def open_reader(self) -> tuple[TokenReader, DatasetSpec]:
        """The reader of the complete split and the spec of the dataset."""
        spec = self.spec  # first: its error says so where the dataset is of another kind
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
            place = number if self._selection[1] is None else int(self._selection[1][number])
            units, codes = self.reader.read(place, *sizes)
            parts.append((units[slice(*piece.units)], codes[:, slice(*piece.frames)]))
        return parts

    def row(self, number: int) -> dict[str, np.ndarray]:
        """Arrays of a row, see `batches`."""
        return self.build([self.parts(segment) for segment in self.plan.row(number)])

    def build(self, segments: list[list[tuple[np.ndarray, np.ndarray]]]) -> dict[str, np.ndarray]:
        """Arrays of a row of the given segments, in the arrangement of the packing."""
        return _BUILDERS[self.packing.arrangement](self._layout, self.packing, segments)

    def empty_row(self) -> dict[str, np.ndarray]:
        """Arrays of a row of padding."""
        return self.build([])
