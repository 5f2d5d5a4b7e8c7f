"""The protocol of a tracker, and the identity of a run that all of its trackers share."""

import contextlib
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Workdir = str | os.PathLike[str]
RUN_ID_FILE = "run_id"


class Tracker(Protocol):
    """Where a run writes its numbers. One process of the run has trackers.

    Metric names have a section: `train/loss`, `eval/nll`, `perf/mfu`, `skip/batch`, `preview/...`.
    The record of a run, console and JSON lines, may raise OSError when its storage fails, which
    ends the run; all others are in `optional.OptionalTracker`, which lets nothing through.
    """

    def start(self, run_id: str, config: Mapping[str, Any], step: int) -> None:
        """Opens the tracker, before anything is written.

        Args:
            run_id: the same for the life of a workdir, whatever number of restarts.
            config: the run's configuration as JSON values, and beside its sections what else
                identifies it: `parameters`, `dataset_fingerprint`, `code_version`, ...
            step: finished steps; 0 for a new run. What was written for later steps is dropped, or
                not written again.
        """

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes scalars by name; a value may be NaN or infinite."""

    def write_audio(self, step: int, name: str, wav: np.ndarray, sample_rate: int) -> None:
        """Writes a signal (N,) in [-1, 1]."""

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes a greyscale image (H, W) uint8."""

    def write_table(
        self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> None:
        """Writes a table of text and numbers."""

    def saved(self, step: int) -> None:
        """A checkpoint of `step` begins: everything up to this step has been written."""

    def close(self) -> None:
        """Flushes and closes; called once, also when `start` has failed."""


class TrackerGroup:
    """Several trackers as one."""

    def __init__(self, trackers: Sequence[Tracker]):
        self._trackers = trackers

    def start(self, run_id: str, config: Mapping[str, Any], step: int) -> None:
        """See `Tracker`."""
        for tracker in self._trackers:
            tracker.start(run_id, config, step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for tracker in self._trackers:
            tracker.write(step, values)

    def write_audio(self, step: int, name: str, wav: np.ndarray, sample_rate: int) -> None:
        """See `Tracker`."""
        for tracker in self._trackers:
            tracker.write_audio(step, name, wav, sample_rate)

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """See `Tracker`."""
        for tracker in self._trackers:
            tracker.write_image(step, name, image)

    def write_table(
        self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> None:
        """See `Tracker`."""
        for tracker in self._trackers:
            tracker.write_table(step, name, columns, rows)

    def saved(self, step: int) -> None:
        """See `Tracker`."""
        for tracker in self._trackers:
            tracker.saved(step)

    def close(self) -> None:
        """See `Tracker`; all are closed, whatever one of them raises."""
        with contextlib.ExitStack() as stack:
            for tracker in self._trackers:
                stack.callback(tracker.close)


class NoMedia:
    """Base of trackers that keep scalars only, and each line as it comes."""

    def write_audio(self, step: int, name: str, wav: np.ndarray, sample_rate: int) -> None:
        """Does nothing."""

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Does nothing."""

    def write_table(
        self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> None:
        """Does nothing."""

    def saved(self, step: int) -> None:
        """Does nothing."""


def run_id(workdir: Workdir, name: str) -> str:
    """The id of the run in a workdir; a new one, `name` and eight hex digits, is stored there."""
    path = Path(workdir) / RUN_ID_FILE
    if path.exists():
        return path.read_text(encoding="utf-8").strip()
    made = f"{name}-{secrets.token_hex(4)}"
    path.write_text(made + "\n", encoding="utf-8")
    return made


def spectrogram_image(wav: np.ndarray, sample_rate: int) -> np.ndarray:
    """Log power spectrogram of a signal (N,): uint8 (frequencies, frames), 80 dB, low at the foot.

    Frames of 25 ms every 10 ms.
    """
    size, hop = sample_rate // 40, sample_rate // 100
    wav = np.pad(wav, (0, max(size - len(wav), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(wav, size)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(size)[None], axis=1)) ** 2
    decibels = 10 * np.log10(np.maximum(power / max(power.max(), 1e-12), 1e-8))
    return (255 * (1 + decibels / 80)).astype(np.uint8).T[::-1]
