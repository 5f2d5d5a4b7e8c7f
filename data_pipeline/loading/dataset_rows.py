"""Rows of one dataset: what is the same for every kind of dataset."""

import abc
import dataclasses
import functools
from typing import Any, Self

import numpy as np

from data_pipeline.datasets.dataset_json import Sealed
from data_pipeline.datasets.examples import ExampleReader
from data_pipeline.packing.plan import RowPlan
from data_pipeline.packing.token_plan import PackingConfig

# Between tries at a record that cannot be read: network file systems come back.
RETRY_SECONDS = (1.0, 4.0, 16.0)


@dataclasses.dataclass(frozen=True)
class ComponentRows(abc.ABC):
    """Everything that a worker process needs to make rows; opens its files when first asked.

    Attributes:
        dataset_dir: holds `dataset.json`.
        split: one of its splits.
        packing: how records become rows.
        language: the only one read; None reads all.
        known_pass: a pass and its first row, see `RowPlan.remember`.
    """

    dataset_dir: str
    split: str
    packing: PackingConfig
    language: str | None = None
    known_pass: tuple[int, int] = (0, 0)

    @functools.cached_property
    def plan(self) -> RowPlan:
        """Of the records that are read."""
        plan = self._make_plan()
        plan.remember(*self.known_pass)
        return plan

    @abc.abstractmethod
    def _make_plan(self) -> RowPlan:
        """See `plan`."""

    @abc.abstractmethod
    def row(self, number: int) -> dict[str, np.ndarray]:
        """Arrays of a row."""

    @abc.abstractmethod
    def empty_row(self) -> dict[str, np.ndarray]:
        """Arrays of a row that holds nothing."""

    @abc.abstractmethod
    def open_reader(self) -> tuple[ExampleReader, Sealed]:
        """The reader of the whole split and the spec of the dataset."""

    def __getstate__(self) -> dict[str, Any]:
        """Only the fields: plans and open files stay in their process."""
        return {name: getattr(self, name) for name in _field_names(self)}

    def from_pass(self, number: int, first_row: int) -> Self:
        """The same rows for processes to come that need not plan the passes before one."""
        self.plan.remember(number, first_row)
        later = dataclasses.replace(self, known_pass=(number, first_row))
        # What was made so far goes on being used in this process.
        later.__dict__.update(
            {k: v for k, v in self.__dict__.items() if k not in _field_names(self)}
        )
        return later


def _field_names(value: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(value)]
