"""Base of the packing plans: numbered rows over endless epochs, and reproducible randomness.

A plan is a pure function of (seed, epoch, lengths). Row numbers continue from epoch to epoch, so
the state of a reader is one number.
"""

import abc
import functools
import threading
from collections import OrderedDict
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

# At the end of an epoch, some threads still read it while others have begun the next.
_CACHED_EPOCHS = 2


class PlannedEpoch(Protocol):
    """The plan of one epoch."""

    @property
    def num_rows(self) -> int:
        """Number of rows."""


Epoch = TypeVar("Epoch", bound=PlannedEpoch)


class RowPlan(abc.ABC, Generic[Epoch]):
    """Rows over endless epochs. Safe to use from several threads.

    Attributes:
        config: how records become rows, a `token_plan.PackingConfig`.
    """

    config: Any

    def __init__(self) -> None:
        self._epochs: OrderedDict[int, Epoch] = OrderedDict()
        self._first_rows = {0: 0}  # by epoch, as far as known
        self._lock = threading.RLock()

    @abc.abstractmethod
    def _make(self, number: int) -> Epoch:
        """Plans an epoch."""

    @abc.abstractmethod
    def _fingerprint(self) -> str:
        """See `fingerprint`."""

    @abc.abstractmethod
    def efficiency(self, epoch: int = 0) -> dict[str, float]:
        """Fractions of an epoch's positions (and predicted frames) that are not padding."""

    @abc.abstractmethod
    def row(self, row: int) -> Any:
        """Contents of a row, 0 <= row."""

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all that the plan depends on."""
        return self._fingerprint()

    def num_rows(self, epoch: int) -> int:
        """Rows of an epoch; epochs differ a little."""
        return self._plan(epoch).num_rows

    def locate(self, row: int) -> tuple[int, int]:
        """The epoch of a row, and the first row of that epoch.

        All earlier epochs are planned for that, once, unless `remember` gave a later start.
        """
        if row < 0:
            raise IndexError(f"row {row} is negative")
        with self._lock:
            number = max(epoch for epoch, first in self._first_rows.items() if first <= row)
            while True:
                first = self._first_rows[number]
                end = self._first_rows.get(number + 1)
                if end is None:
                    end = self._first_rows[number + 1] = first + self.num_rows(number)
                if row < end:
                    return number, first
                number += 1

    def remember(self, epoch: int, first_row: int) -> None:
        """Takes the first row of an epoch from an earlier reader of the same plan."""
        with self._lock:
            self._first_rows[epoch] = first_row

    def _plan(self, number: int) -> Epoch:
        with self._lock:
            if number not in self._epochs:
                self._epochs[number] = self._make(number)
                while len(self._epochs) > _CACHED_EPOCHS:
                    self._epochs.popitem(last=False)
            self._epochs.move_to_end(number)
            return self._epochs[number]


class RandomKeys:
    """Randomness that no NumPy version changes: raw Philox output, which NumPy keeps stable."""

    def __init__(self, seed: int, epoch: int):
        self._bits = np.random.Philox(np.random.SeedSequence((seed, epoch)))

    def permutation(self, size: int) -> np.ndarray:
        """A permutation (size,) int64."""
        return np.argsort(self._bits.random_raw(size), kind="stable")

    def bits(self, size: int) -> np.ndarray:
        """Fair coins (size,) bool."""
        return self._bits.random_raw(size) >> np.uint64(63) == 1
