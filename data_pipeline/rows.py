"""Rows of a batch from plan and records: of one dataset, and of a mixture of several."""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Self

import numpy as np

from data_pipeline import mixture
from data_pipeline.mixture import MixturePlan
from data_pipeline.packing import PackingConfig, PackingPlan, Segment
from data_pipeline.records import RecordReader
from data_pipeline.spec import DatasetSpec, LengthIndex
from data_pipeline.tokens import NO_TARGET, PAD, TokenLayout, segment_tokens

# Between tries at a record that cannot be read: network file systems come back.
RETRY_SECONDS = (1.0, 4.0, 16.0)


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
    length, budget = packing.row_length, packing.frame_budget
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
class DatasetRows:
    """Everything that a worker process needs to make rows; opens its files when first asked.

    Attributes:
        dataset_dir: holds `dataset.json`.
        split: one of its splits.
        packing: how records become rows.
        language: the only one read; None reads all.
        known_pass: a pass and its first row, see `PackingPlan.remember`.
    """

    dataset_dir: str
    split: str
    packing: PackingConfig
    language: str | None = None
    known_pass: tuple[int, int] = (0, 0)

    @functools.cached_property
    def spec(self) -> DatasetSpec:
        """Of the dataset."""
        return DatasetSpec.load(self.dataset_dir)

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
    def reader(self) -> RecordReader:
        """Of the whole split."""
        return RecordReader(self.dataset_dir, self.split, RETRY_SECONDS)

    @functools.cached_property
    def plan(self) -> PackingPlan:
        """Of the records that are read."""
        plan = PackingPlan(self.packing, self.spec.layout(), self.index, self.spec.silence)
        plan.remember(*self.known_pass)
        return plan

    def __getstate__(self) -> dict[str, Any]:
        """Only the fields: plans and open files stay in their process."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

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
            record = self.reader.read(place, *sizes)
            parts.append((record.units[slice(*piece.units)], record.codes[:, slice(*piece.frames)]))
        return parts

    def row(self, number: int) -> dict[str, np.ndarray]:
        """Arrays of a row, see `build_row` and `build_frames_row`."""
        return self.build([self.parts(segment) for segment in self.plan.row(number)])

    def build(self, segments: list[list[tuple[np.ndarray, np.ndarray]]]) -> dict[str, np.ndarray]:
        """Arrays of a row of the given segments, as the packing arranges them."""
        return _BUILDERS[self.packing.arrangement](self.spec.layout(), self.packing, segments)

    def from_pass(self, number: int, first_row: int) -> Self:
        """The same rows for processes to come that need not plan the passes before one."""
        self.plan.remember(number, first_row)
        later = dataclasses.replace(self, known_pass=(number, first_row))
        # What was made so far goes on being used in this process.
        later.__dict__.update(
            {k: v for k, v in self.__dict__.items() if k not in _field_names(self)}
        )
        return later


def _field_names(value: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(value)}


@dataclasses.dataclass(frozen=True)
class MixtureRows:
    """Rows of one dataset or of several, in their shares.

    Attributes:
        components: each with a plan of its own.
        shares: of the rows, one for each component.
        weighted: by shares for ever; otherwise each component's first pass in turn.
    """

    components: tuple[DatasetRows, ...]
    shares: tuple[float, ...]
    weighted: bool = True

    @classmethod
    def open(cls, path: str | Path, split: str, packing: PackingConfig, *, repeat: bool) -> Self:
        """Opens a dataset or a mixture.

        Args:
            path: directory of a dataset, or a mixture file, see `mixture`.
            split: of every dataset; those without it are left out.
            packing: how records become rows.
            repeat: go on for ever.

        Raises:
            UserError: see `mixture.components`.
        """
        parts = mixture.components(path, split)
        return cls(
            tuple(DatasetRows(part.path, split, packing, part.language) for part in parts),
            tuple(part.share for part in parts),
            repeat,
        )

    @functools.cached_property
    def plan(self) -> MixturePlan:
        """Which row is which component's."""
        plans = [component.plan for component in self.components]
        return MixturePlan(plans, self.shares, weighted=self.weighted)

    def __getstate__(self) -> dict[str, Any]:
        """Only the fields, as of `DatasetRows`."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def row(self, number: int | None) -> dict[str, np.ndarray]:
        """Arrays of a row, see `build_row`; None gives an empty one."""
        if number is None:
            return self.components[0].build([])
        component, place = self.plan.source(number)
        return self.components[component].row(place)

    def passes(self, row: int) -> list[list[int]]:
        """Of each component the pass that its next row at `row` lies in, and its first row."""
        places = zip(self.components, self.plan.drawn(row), strict=True)
        return [list(component.plan.locate(place)) for component, place in places]

    def from_passes(self, passes: list[list[int]]) -> Self:
        """The same rows for processes to come that need not plan the passes before these."""
        later = dataclasses.replace(
            self,
            components=tuple(
                component.from_pass(int(number), int(first))
                for component, (number, first) in zip(self.components, passes, strict=True)
            ),
        )
        later.__dict__["plan"] = self.plan
        return later
