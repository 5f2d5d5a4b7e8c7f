"""Rows of one dataset: the interface that every kind of dataset implements."""

import abc
import dataclasses
import functools
from typing import Any, Self

import numpy as np

from data_pipeline.datasets.dataset_json import Sealed
from data_pipeline.datasets.examples import ExampleReader
from data_pipeline.packing.plan import RowPlan
from data_pipeline.packing.token_plan import PackingConfig

# Waits between attempts to read a record: network file systems come back.
RETRY_SECONDS = (1.0, 4.0, 16.0)


@dataclasses.dataclass(frozen=True)
class ComponentRows(abc.ABC):
    """Everything that a worker process needs to build rows; files are opened on first use.

    Attributes:
        dataset_dir: holds `dataset.json`.
        split: one of its splits.
        packing: how records become rows.
        language: read only records of this language; None reads all.
        known_epoch: an epoch and its first row, see `RowPlan.remember`.
    """

    dataset_dir: str
    split: str
    packing: PackingConfig
    language: str | None = None
    known_epoch: tuple[int, int] = (0, 0)

    @functools.cached_property
    def plan(self) -> RowPlan:
        """Packing plan of the records that are read."""
        plan = self._make_plan()
        plan.remember(*self.known_epoch)
        return plan

    @abc.abstractmethod
    def _make_plan(self) -> RowPlan:
        """See `plan`."""

    @abc.abstractmethod
    def row(self, number: int) -> dict[str, np.ndarray]:
        """Arrays of a row, see `batches`."""

    @abc.abstractmethod
    def empty_row(self) -> dict[str, np.ndarray]:
        """Arrays of a row of padding."""

    @abc.abstractmethod
    def open_reader(self) -> tuple[ExampleReader, Sealed]:
        """The reader of the complete split and the spec of the dataset."""

    def __getstate__(self) -> dict[str, Any]:
        """Only the fields: plans and open files are not sent to workers."""
        return {name: getattr(self, name) for name in _field_names(self)}

    def from_epoch(self, epoch: int, first_row: int) -> Self:
        """The same rows, with which worker processes need not plan the epochs before this one."""
        self.plan.remember(epoch, first_row)
        resumed = dataclasses.replace(self, known_epoch=(epoch, first_row))
        # This process goes on with its plan and open files.
        resumed.__dict__.update(
            {k: v for k, v in self.__dict__.items() if k not in _field_names(self)}
        )
        return resumed


def _field_names(value: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(value)]
