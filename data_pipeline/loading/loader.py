"""Batches of packed rows: from plan and records to fixed-shape integer arrays, through Grain.

`batches` documents the arrays. The position in the data is one row number, so any number of hosts
reads the same global batches from one state. NumPy only: Grain's worker processes never start a
JAX backend.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import grain
import numpy as np

from data_pipeline.datasets.kinds import Spec
from data_pipeline.loading import mixture
from data_pipeline.loading.mixture_plan import MixturePlan
from data_pipeline.loading.mixture_rows import MixtureRows
from data_pipeline.packing.plan import RowPlan
from data_pipeline.packing.token_plan import PackingConfig
from data_pipeline.runtime.errors import UserError

_THREADS = 4
_PREFETCH_BATCHES = 4
# Training reads rows without end; Grain needs a length.
_ENDLESS = 1 << 40


@dataclasses.dataclass(frozen=True)
class _LocalRows(grain.transforms.Map):
    """Maps the index of a row on this host to the row."""

    rows: MixtureRows
    start: int  # global row at which the iteration begins
    stop: int | None  # global row at which rows end; None: never
    batch_size: int
    host: int
    num_hosts: int
    skipped: list[list[int]]

    def map(self, element: int) -> dict[str, np.ndarray]:
        local_size = self.batch_size // self.num_hosts
        batch, index = divmod(int(element), local_size)
        offset = batch * self.batch_size + self.host * local_size + index
        number = _advance(self.start, offset, self.skipped)
        return self.rows.row(None if self.stop is not None and number >= self.stop else number)


class Loader:
    """Iterator over this host's part of the global batches.

    Global batch k holds rows k * batch_size to (k + 1) * batch_size - 1 of the plan: the hosts'
    parts, concatenated in host order, for any number of hosts. `batches.ARRANGEMENTS` states the
    arrays.
    """

    def __init__(
        self,
        path: str | Path,
        split: str,
        packing: PackingConfig,
        batch_size: int,
        *,
        host: int = 0,
        num_hosts: int = 1,
        num_workers: int = 0,
        repeat: bool = True,
    ):
        """Opens a dataset at row 0.

        Args:
            path: directory of a dataset, or a mixture file of several, see `mixture`.
            split: one of its splits.
            packing: how records become rows; its arrangement must fit the kind of dataset.
            batch_size: B, rows of the global batch; a multiple of `num_hosts`.
            host: index of this host.
            num_hosts: how many hosts share a batch.
            num_workers: processes that build rows; 0 builds them in threads of this one.
            repeat: epoch after epoch without end; otherwise stop after the first, whose last batch
                is filled up with rows of padding.

        Raises:
            UserError: there is no such dataset or split, or segments do not fit into rows.
        """
        if not 0 <= host < num_hosts:
            raise UserError(f"host {host} is not one of {num_hosts}")
        if batch_size < 1 or batch_size % num_hosts:
            raise UserError(f"batch_size {batch_size} must be a multiple of {num_hosts} hosts")
        self._spec = mixture.load_spec(path)
        self._rows = MixtureRows.open(path, split, packing, repeat=repeat, batch_size=batch_size)
        self._batch_size, self._host, self._num_hosts = batch_size, host, num_hosts
        self._num_workers, self._repeat = num_workers, repeat
        self._row = 0
        self._skipped: list[list[int]] = []
        self._iterator: Iterator[dict[str, np.ndarray]] | None = None
        for component in self._rows.components:
            reader, spec = component.open_reader()
            if len(reader) != spec.split(split).num_records:
                raise UserError(
                    f"{component.dataset_dir}: dataset.json and dataset_info.json disagree"
                )

    @property
    def spec(self) -> Spec:
        """The spec of the dataset, or the merged spec of the mixture."""
        return self._spec

    @property
    def plan(self) -> RowPlan | MixturePlan:
        """The packing plan; `plan.efficiency(epoch)` returns how full its rows are."""
        plan = self._rows.plan
        return plan.plans[0] if len(plan.plans) == 1 else plan

    @property
    def rows_per_epoch(self) -> int:
        """Rows of the first epoch; later epochs differ a little."""
        return self.plan.num_rows(0)

    def __iter__(self) -> Self:
        """Returns itself."""
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        """The next batch, see `batches`; B is batch_size / num_hosts."""
        if self._iterator is None:
            self._iterator = self._start()
        with _workers_without_accelerator(self._num_workers):
            batch = next(self._iterator)
        self._row = _advance(self._row, self._batch_size, self._skipped)
        return batch

    @property
    def row(self) -> int:
        """The global number of the next row."""
        return self._row

    def skip(self, first: int, end: int) -> None:
        """Excludes the rows `first` to `end` - 1 from now on; doing so again changes nothing.

        The state includes skipped rows.

        Raises:
            UserError: the range is empty or negative.
        """
        if not 0 <= first < end:
            raise UserError(f"cannot skip the rows {first} to {end}: not a range of rows")
        self._skipped = _merge([*self._skipped, [first, end]])
        self._row = _advance(self._row, 0, self._skipped)
        self.close()

    def close(self) -> None:
        """Stops prefetching; reading another batch starts it again at the same row."""
        close = getattr(self._iterator, "close", None)
        if close is not None:
            close()
        self._iterator = None

    def get_state(self) -> dict[str, Any]:
        """The position of the next batch as JSON values; the same on every host.

        `row` is its first row, `plan` the plan's fingerprint, `skipped` holds ranges
        [first row, end). `pass` holds the epoch of `row` and the epoch's first row, `passes` those
        of every component of a mixture: they follow from the plan, and save a resumed run from
        planning earlier epochs.
        """
        skipped = [list(rows) for rows in self._skipped]
        state = {"row": self._row, "plan": self.plan.fingerprint, "skipped": skipped}
        if self._repeat:
            epochs = self._rows.epochs(self._row)
            state |= {"pass": epochs[0]} if len(epochs) == 1 else {"passes": epochs}
        return state

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Resumes from a state, saved with any number of hosts and any batch size.

        Raises:
            UserError: the state belongs to another plan (data, packing or seed), or is malformed.
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
        epochs = state.get("passes", [state["pass"]] if "pass" in state else None)
        if epochs is not None:
            self._rows = self._rows.from_epochs(epochs)
        self.close()

    def _start(self) -> Iterator[dict[str, np.ndarray]]:
        stop = None if self._repeat else self.rows_per_epoch
        remaining = _ENDLESS if stop is None else max(0, stop - self._row)
        local_size = self._batch_size // self._num_hosts
        batches = -(-remaining // self._batch_size)
        if batches == 0:
            return iter(())
        rows = _LocalRows(
            self._rows,
            self._row,
            stop,
            self._batch_size,
            self._host,
            self._num_hosts,
            self._skipped,
        )
        dataset = grain.MapDataset.range(batches * local_size).map(rows).batch(local_size)
        options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_PREFETCH_BATCHES)
        iterator = dataset.to_iter_dataset(options)
        if self._num_workers:
            workers = grain.MultiprocessingOptions(self._num_workers, _PREFETCH_BATCHES)
            return iter(iterator.mp_prefetch(workers))
        return iter(iterator)


def _advance(row: int, count: int, skipped: list[list[int]]) -> int:
    """The row `count` unskipped rows after `row`; `skipped` is sorted, without overlap."""
    target = row + count
    for first, end in skipped:
        if end > row and target >= first:
            target += end - max(first, row)
    return target


def _merge(ranges: list[list[int]]) -> list[list[int]]:
    """The same rows as sorted, disjoint ranges."""
    merged: list[list[int]] = []
    for first, end in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([first, end])
    return merged


@contextmanager
def _workers_without_accelerator(num_workers: int) -> Iterator[None]:
    """Starts processes with JAX on the CPU: Grain imports JAX, and a TPU has one owner."""
    previous = os.environ.get("JAX_PLATFORMS")
    if num_workers:
        os.environ["JAX_PLATFORMS"] = "cpu"
    try:
        yield
    finally:
        if num_workers:
            del os.environ["JAX_PLATFORMS"]
            if previous is not None:
                os.environ["JAX_PLATFORMS"] = previous
