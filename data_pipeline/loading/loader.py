"""Batches of packed rows: plan and records to fixed-shape integer arrays, through Grain.

The loader's place is a row number, nothing else: any number of hosts reads the same global batches
from the same state. Only NumPy is used here; Grain's worker processes never start a JAX backend.
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
from data_pipeline.loading.mixture import MixturePlan
from data_pipeline.loading.mixture_rows import MixtureRows
from data_pipeline.packing.plan import RowPlan
from data_pipeline.packing.token_plan import PackingConfig
from data_pipeline.runtime.errors import UserError

_THREADS = 4
_PREFETCH_BATCHES = 4
# Rows never end while training repeats; Grain wants a number.
_ENDLESS = 1 << 40


@dataclasses.dataclass(frozen=True)
class _LocalRows(grain.transforms.Map):
    """From the number of a row on this host to the row."""

    rows: MixtureRows
    start: int  # global row at which the iteration began
    stop: int | None  # global row at which rows end
    batch_rows: int
    host: int
    num_hosts: int
    skipped: list[list[int]]

    def map(self, element: int) -> dict[str, np.ndarray]:
        share = self.batch_rows // self.num_hosts
        batch, place = divmod(int(element), share)
        ahead = batch * self.batch_rows + self.host * share + place
        number = _advance(self.start, ahead, self.skipped)
        return self.rows.row(None if self.stop is not None and number >= self.stop else number)


class Loader:
    """Iterator over this host's part of the global batches.

    The global batch k holds the rows k * batch_rows and following; the hosts' parts, put together
    in host order, are that batch whatever the number of hosts.
    """

    def __init__(
        self,
        path: str | Path,
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
            path: directory of a dataset, or a mixture file of several, see `mixture`.
            split: one of its splits.
            packing: how records become rows; its arrangement must be one of that kind of dataset.
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
        self._spec = mixture.load_spec(path)
        self._rows = MixtureRows.open(path, split, packing, repeat=repeat)
        self._batch_rows, self._host, self._num_hosts = batch_rows, host, num_hosts
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
        """The spec of the dataset, or of the mixture's datasets together."""
        return self._spec

    @property
    def plan(self) -> RowPlan | MixturePlan:
        """The plan of the rows; `plan.efficiency(pass)` tells how full they are."""
        plan = self._rows.plan
        return plan.plans[0] if len(plan.plans) == 1 else plan

    @property
    def rows_per_pass(self) -> int:
        """Rows of the first pass; later ones differ a little."""
        return self.plan.num_rows(0)

    def __iter__(self) -> Self:
        """Returns itself."""
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        """The next batch: arrays (batch_rows / num_hosts, ...), see `ComponentRows.row`."""
        if self._iterator is None:
            self._iterator = self._start()
        with _workers_without_accelerator(self._num_workers):
            batch = next(self._iterator)
        self._row = _advance(self._row, self._batch_rows, self._skipped)
        return batch

    @property
    def row(self) -> int:
        """The global number of the next row."""
        return self._row

    def skip(self, first: int, end: int) -> None:
        """Never reads the rows from `first` up to `end`; skipping them again changes nothing.

        Rows that have been read stay read. The state remembers what is skipped.

        Raises:
            UserError: this is no range of rows.
        """
        if not 0 <= first < end:
            raise UserError(f"cannot skip the rows {first} to {end}: the first must come first")
        self._skipped = _merge([*self._skipped, [first, end]])
        self._row = _advance(self._row, 0, self._skipped)
        self.close()

    def close(self) -> None:
        """Stops reading ahead; the next batch would start it again where it stopped."""
        close = getattr(self._iterator, "close", None)
        if close is not None:
            close()
        self._iterator = None

    def get_state(self) -> dict[str, Any]:
        """Where the next batch begins, as JSON; the same on every host.

        `pass` holds the number and the first row of the pass that `row` lies in, `passes` those of
        every component of a mixture: they follow from the plan, and spare a resumed run from
        planning the passes before. `skipped` holds ranges [first row, end].
        """
        skipped = [list(rows) for rows in self._skipped]
        state = {"row": self._row, "plan": self.plan.fingerprint, "skipped": skipped}
        if self._repeat:
            epochs = self._rows.epochs(self._row)
            state |= {"pass": epochs[0]} if len(epochs) == 1 else {"passes": epochs}
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
        epochs = state.get("passes", [state["pass"]] if "pass" in state else None)
        if epochs is not None:
            self._rows = self._rows.from_epochs(epochs)
        self.close()

    def _start(self) -> Iterator[dict[str, np.ndarray]]:
        stop = None if self._repeat else self.rows_per_pass
        remaining = _ENDLESS if stop is None else max(0, stop - self._row)
        share = self._batch_rows // self._num_hosts
        batches = -(-remaining // self._batch_rows)
        if batches == 0:
            return iter(())
        rows = _LocalRows(
            self._rows,
            self._row,
            stop,
            self._batch_rows,
            self._host,
            self._num_hosts,
            self._skipped,
        )
        dataset = grain.MapDataset.range(batches * share).map(rows).batch(share)
        options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_PREFETCH_BATCHES)
        iterator = dataset.to_iter_dataset(options)
        if self._num_workers:
            workers = grain.MultiprocessingOptions(self._num_workers, _PREFETCH_BATCHES)
            return iter(iterator.mp_prefetch(workers))
        return iter(iterator)


def _advance(row: int, count: int, skipped: list[list[int]]) -> int:
    """The row that is read `count` rows after `row`; `skipped` is sorted, without overlap."""
    target = row + count
    for first, end in skipped:
        if end > row and target >= first:
            target += end - max(first, row)
    return target


def _merge(ranges: list[list[int]]) -> list[list[int]]:
    """The same rows as sorted ranges that do not touch."""
    merged: list[list[int]] = []
    for first, end in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([first, end])
    return merged


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
