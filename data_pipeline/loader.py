"""Batches of packed rows: plan and records to fixed-shape integer arrays, through Grain.

The loader's place is a row number, nothing else: any number of hosts reads the same global batches
from the same state. Only NumPy is used here; Grain's worker processes never start a JAX backend.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import grain
import numpy as np

from data_pipeline.cli import UserError
from data_pipeline.packing import PackingConfig, PackingPlan, Segment
from data_pipeline.records import RecordReader
from data_pipeline.spec import DatasetSpec, LengthIndex
from data_pipeline.tokens import NO_TARGET, PAD, TokenLayout, segment_tokens

_THREADS = 4
_PREFETCH_BATCHES = 4
# Rows never end while training repeats; Grain wants a number.
_ENDLESS = 1 << 40


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


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Everything that a worker process needs to make rows; opens its files when first asked."""

    dataset_dir: str
    split: str
    packing: PackingConfig
    known_pass: tuple[int, int] = (0, 0)  # a pass and its first row, see PackingPlan.remember

    @functools.cached_property
    def spec(self) -> DatasetSpec:
        return DatasetSpec.load(self.dataset_dir)

    @functools.cached_property
    def index(self) -> LengthIndex:
        return LengthIndex.load(self.dataset_dir, self.spec, self.split)

    @functools.cached_property
    def reader(self) -> RecordReader:
        return RecordReader(self.dataset_dir, self.split)

    @functools.cached_property
    def plan(self) -> PackingPlan:
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
            record = self.reader.read(number, *sizes)
            parts.append((record.units[slice(*piece.units)], record.codes[:, slice(*piece.frames)]))
        return parts

    def row(self, number: int | None) -> dict[str, np.ndarray]:
        """Arrays of a row; None gives an empty one."""
        segments = [] if number is None else self.plan.row(number)
        parts = [self.parts(segment) for segment in segments]
        return build_row(self.spec.layout(), self.packing, parts)


@dataclasses.dataclass(frozen=True)
class _LocalRows(grain.transforms.Map):
    """From the number of a row on this host to the row."""

    rows: _Rows
    start: int  # global row at which the iteration began
    stop: int | None  # global row at which rows end
    batch_rows: int
    host: int
    num_hosts: int

    def map(self, element: int) -> dict[str, np.ndarray]:
        share = self.batch_rows // self.num_hosts
        batch, place = divmod(int(element), share)
        number = self.start + batch * self.batch_rows + self.host * share + place
        return self.rows.row(None if self.stop is not None and number >= self.stop else number)


class Loader:
    """Iterator over this host's part of the global batches.

    The global batch k holds the rows k * batch_rows and following; the hosts' parts, put together
    in host order, are that batch whatever the number of hosts.
    """

    def __init__(
        self,
        dataset_dir: str | Path,
        split: str,
        packing: PackingConfig,
        batch_rows: int,
        *,
        host: int = 0,
        num_hosts: int = 1,
        num_workers: int = 0,
        repeat: bool = True,
    ):
        """Opens a dataset at row 0.

        Args:
            dataset_dir: holds `dataset.json`.
            split: one of its splits.
            packing: how records become rows.
            batch_rows: B, rows of the global batch; a multiple of `num_hosts`.
            host: number of this host.
            num_hosts: how many hosts share a batch.
            num_workers: processes that build rows; 0 builds them in threads of this one.
            repeat: go on for ever; otherwise end with the first pass, whose last batch is filled
                with empty rows.

        Raises:
            UserError: there is no such dataset or split, or segments do not fit the rows.
        """
        if not 0 <= host < num_hosts:
            raise UserError(f"host {host} is not one of {num_hosts}")
        if batch_rows < 1 or batch_rows % num_hosts:
            raise UserError(f"batch_rows {batch_rows} must be a multiple of {num_hosts} hosts")
        self._rows = _Rows(str(dataset_dir), split, packing)
        self._batch_rows, self._host, self._num_hosts = batch_rows, host, num_hosts
        self._num_workers, self._repeat = num_workers, repeat
        self._row = 0
        self._skipped: list[list[int]] = []
        self._iterator: Iterator[dict[str, np.ndarray]] | None = None
        if len(self._rows.reader) != len(self._rows.index):
            raise UserError(f"{dataset_dir}: dataset.json and dataset_info.json disagree")

    @property
    def spec(self) -> DatasetSpec:
        """The dataset's spec."""
        return self._rows.spec

    @property
    def plan(self) -> PackingPlan:
        """The packing plan; `plan.efficiency(pass)` tells how full its rows are."""
        return self._rows.plan

    @property
    def rows_per_pass(self) -> int:
        """Rows of the first pass; later ones differ a little."""
        return self.plan.num_rows(0)

    def __iter__(self) -> Self:
        """Returns itself."""
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        """The next batch: the arrays of `build_row`, (batch_rows / num_hosts, ...) each."""
        if self._iterator is None:
            self._iterator = self._start()
        with _workers_without_accelerator(self._num_workers):
            batch = next(self._iterator)
        self._row += self._batch_rows
        return batch

    def close(self) -> None:
        """Stops reading ahead; the next batch would start it again where it stopped."""
        close = getattr(self._iterator, "close", None)
        if close is not None:
            close()
        self._iterator = None

    def get_state(self) -> dict[str, Any]:
        """Where the next batch begins, as JSON; the same on every host.

        `pass` holds the number and the first row of the pass that `row` lies in: it follows from
        the plan, and spares a resumed run from planning the passes before.
        """
        state = {"row": self._row, "plan": self.plan.fingerprint, "skipped": list(self._skipped)}
        if self._repeat:
            state["pass"] = list(self.plan.locate(self._row))
        return state

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state, of any number of hosts and any batch size.

        Raises:
            UserError: the state is of another plan (other data, packing or seed), or not a state.
        """
        row, plan = state.get("row"), state.get("plan")
        if not isinstance(row, int) or row < 0 or not isinstance(plan, str):
            raise UserError(f"not a state of the data loader: {dict(state)!r}")
        if plan != self.plan.fingerprint:
            raise UserError(
                f"the data state is of plan {plan}, this loader's plan is {self.plan.fingerprint}: "
                "resume with the dataset, packing and seed of the checkpoint"
            )
        self._row, self._skipped = row, [list(skip) for skip in state.get("skipped", [])]
        if "pass" in state:
            known = int(state["pass"][0]), int(state["pass"][1])
            self.plan.remember(*known)
            # The plan made so far goes on being used in this process.
            plan_made = self.plan
            self._rows = dataclasses.replace(self._rows, known_pass=known)
            self._rows.__dict__["plan"] = plan_made
        self.close()

    def _start(self) -> Iterator[dict[str, np.ndarray]]:
        stop = None if self._repeat else self.rows_per_pass
        remaining = _ENDLESS if stop is None else max(0, stop - self._row)
        share = self._batch_rows // self._num_hosts
        batches = -(-remaining // self._batch_rows)
        if batches == 0:
            return iter(())
        rows = _LocalRows(
            self._rows, self._row, stop, self._batch_rows, self._host, self._num_hosts
        )
        dataset = grain.MapDataset.range(batches * share).map(rows).batch(share)
        options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_PREFETCH_BATCHES)
        iterator = dataset.to_iter_dataset(options)
        if self._num_workers:
            workers = grain.MultiprocessingOptions(self._num_workers, _PREFETCH_BATCHES)
            return iter(iterator.mp_prefetch(workers))
        return iter(iterator)


@contextmanager
def _workers_without_accelerator(num_workers: int) -> Iterator[None]:
    """Processes started inside see only the CPU: Grain imports JAX, and a TPU has one owner."""
    before = os.environ.get("JAX_PLATFORMS")
    if num_workers:
        os.environ["JAX_PLATFORMS"] = "cpu"
    try:
        yield
    finally:
        if num_workers:
            del os.environ["JAX_PLATFORMS"]
            if before is not None:
                os.environ["JAX_PLATFORMS"] = before
