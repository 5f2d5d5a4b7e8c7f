"""Rows of a run for stores that only append: one for each step, each handed over once.

A run that is killed resumes from its newest checkpoint and repeats the steps after it. A store that
cannot take back what it holds gets each step once, by two rules. A row is handed over when it is
complete: when a later step is written, or a checkpoint begins. At a start the store says which step
it holds last: the rows up to the restored step that it lacks are taken from `metrics.jsonl`, and
those that it holds already are not handed over again when their steps are repeated.
"""

import dataclasses
import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpst_jax.trackers.base import Workdir, spectrogram_image
from gpst_jax.trackers.jsonl import METRICS_FILE, read_metrics

logger = logging.getLogger(__name__)

PROJECT = "gpst_jax"
_NOT_VALUES = ("step", "time")


@dataclasses.dataclass(frozen=True)
class Audio:
    """A signal (N,) float in [-1, 1], and its sample rate in Hz."""

    wav: np.ndarray
    sample_rate: int


@dataclasses.dataclass(frozen=True)
class Image:
    """A greyscale image (H, W) uint8."""

    pixels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text and numbers."""

    columns: list[str]
    rows: list[list[Any]]


Value = float | Audio | Image | Table


class RowTracker:
    """Base of trackers whose store only appends; see the module.

    Args:
        workdir: of the run.
        project: that the run is filed under in the store; None: by the environment, else `PROJECT`.
    """

    name = ""  # of the store

    def __init__(self, workdir: Workdir, project: str | None = None):
        self._workdir, self._project = Path(workdir), project
        self._step, self._row = -1, dict[str, Value]()  # the row in progress
        self._last = -1  # greatest step that the store holds

    def open(self, run_id: str, config: Mapping[str, Any]) -> int:
        """Opens the run in the store; returns the greatest step that it holds, -1 for none."""
        raise NotImplementedError

    def append(self, step: int, row: Mapping[str, Value]) -> None:
        """Appends the row of a step, which is greater than that of any row before."""
        raise NotImplementedError

    def shut(self) -> None:
        """Flushes and closes the run in the store; it may not be open."""
        raise NotImplementedError

    def start(self, run_id: str, config: Mapping[str, Any], step: int) -> None:
        """See `Tracker`; the JSON lines must have been started before."""
        self._last = self.open(_plain(run_id), config)
        if self._last > step:
            logger.info("%s holds step %d already: it gets each step once", self.name, self._last)
        for number, row in _recorded(self._workdir, step).items():
            self._hand_over(number, row)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`; what is not finite is stored as NaN."""
        for name, value in values.items():
            self._add(step, name, float(value) if math.isfinite(value) else math.nan)

    def write_audio(self, step: int, name: str, wav: np.ndarray, sample_rate: int) -> None:
        """See `Tracker`; its spectrogram goes with it."""
        self._add(step, name, Audio(np.clip(wav, -1, 1), sample_rate))
        self._add(step, f"{name}/spectrogram", Image(spectrogram_image(wav, sample_rate)))

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """See `Tracker`."""
        self._add(step, name, Image(image))

    def write_table(
        self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> None:
        """See `Tracker`."""
        self._add(step, name, Table(list(columns), [list(row) for row in rows]))

    def saved(self, step: int) -> None:
        """See `Tracker`."""
        self._complete()

    def close(self) -> None:
        """See `Tracker`.

        A row in progress is left out: no checkpoint has followed it, so that its step is repeated.
        """
        self.shut()

    def _add(self, step: int, name: str, value: Value) -> None:
        if step != self._step:
            self._complete()
            self._step = step
        self._row[name] = value

    def _complete(self) -> None:
        row, self._row = self._row, {}
        if row:
            self._hand_over(self._step, row)

    def _hand_over(self, step: int, row: Mapping[str, Value]) -> None:
        if step > self._last:
            self.append(step, row)
            self._last = step


def _recorded(workdir: Path, last: int) -> dict[int, dict[str, Value]]:
    """The rows of `metrics.jsonl` up to a step: several lines may be of one step."""
    rows: dict[int, dict[str, Value]] = {}
    for line in read_metrics(workdir / METRICS_FILE):
        if line["step"] <= last:
            row = rows.setdefault(line["step"], {})
            row |= {
                k: math.nan if v is None else v for k, v in line.items() if k not in _NOT_VALUES
            }
    return rows


def _plain(run_id: str) -> str:
    """A run id that can be a file name and part of a URL."""
    return re.sub(r"[^\w.-]", "-", run_id)
