"""What every plan of rows is: passes that follow one another, and random draws that stay the same.

A plan is a pure function of (seed, pass, lengths). Row numbers run on over epochs, so the state of
a reader is one number.
"""

import abc
import functools
import threading
from collections import OrderedDict
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

# A reader at the end of a pass still needs it while its threads already read the next one.
_CACHED_PASSES = 2


class PlannedPass(Protocol):
    """The plan of one pass."""

    @property
    def num_rows(self) -> int:
        """How many rows it has."""


Pass = TypeVar("Pass", bound=PlannedPass)


class RowPlan(abc.ABC, Generic[Pass]):
    """Rows over an endless number of passes. Safe to use from several threads.

    Attributes:
        config: how records become rows, a `packing.PackingConfig`.
    """

    config: Any

    def __init__(self) -> None:
        self._passes: OrderedDict[int, Pass] = OrderedDict()
        self._first_rows = {0: 0}  # of epochs: known for every pass before one that is known
        self._lock = threading.RLock()

    @abc.abstractmethod
    def _make(self, number: int) -> Pass:
        """Plans a pass."""

    @abc.abstractmethod
    def _fingerprint(self) -> str:
        """See `fingerprint`."""

    @abc.abstractmethod
    def efficiency(self, epoch: int = 0) -> dict[str, float]:
        """Shares of what is computed that is real in one pass."""

    @abc.abstractmethod
    def row(self, row: int) -> Any:
        """What lies in a row, 0 <= row."""

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all that the plan depends on."""
        return self._fingerprint()

    def num_rows(self, epoch: int) -> int:
        """Rows of one pass; passes differ a little."""
        return self._plan(epoch).num_rows

    def locate(self, row: int) -> tuple[int, int]:
        """The pass that a row number lies in, and the first row number of that pass.

        Row numbers run on over epochs, so this plans all passes before it, once; `remember` spares
        a resumed run that.
        """
        if row < 0:
            raise IndexError(f"row {row} is negative")
        with self._lock:
            number = max(p for p, first in self._first_rows.items() if first <= row)
            while True:
                first = self._first_rows[number]
                end = self._first_rows.get(number + 1)
                if end is None:
                    end = self._first_rows[number + 1] = first + self.num_rows(number)
                if row < end:
                    return number, first
                number += 1

    def remember(self, epoch: int, first_row: int) -> None:
        """Takes the first row of a pass from an earlier reader of the same plan."""
        with self._lock:
            self._first_rows[epoch] = first_row

    def _plan(self, number: int) -> Pass:
        with self._lock:
            if number not in self._passes:
                self._passes[number] = self._make(number)
                while len(self._passes) > _CACHED_PASSES:
                    self._passes.popitem(last=False)
            self._passes.move_to_end(number)
            return self._passes[number]


class RandomKeys:
    """Random draws that are the same for ever: raw Philox output, which NumPy keeps stable."""

    def __init__(self, seed: int, epoch: int):
        self._bits = np.random.Philox(np.random.SeedSequence((seed, epoch)))

    def permutation(self, size: int) -> np.ndarray:
        """A permutation (size,) int64."""
        return np.argsort(self._bits.random_raw(size), kind="stable")

    def bits(self, size: int) -> np.ndarray:
        """Fair coins (size,) bool."""
        return self._bits.random_raw(size) >> np.uint64(63) == 1
