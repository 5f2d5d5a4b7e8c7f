"""Numbers of a run: means over steps, throughput, MFU, and the files they are written to.

A metric travels as a pair (sum, count), so that means over micro-batches, hosts and steps are
exact whatever the number of tokens in each. `metrics.jsonl` holds one object a line,
`{"step": int, "time": seconds, name: value, ...}`; a value that is not finite is null.
"""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter

METRICS_FILE = "metrics.jsonl"


class Means:
    """Adds up (sum, count) pairs over steps and gives the means."""

    def __init__(self):
        self._totals: dict[str, list[float]] = {}

    def add(self, pairs: Mapping[str, tuple[Any, Any]]) -> None:
        """Adds one step's pairs of scalars."""
        for name, (total, count) in pairs.items():
            entry = self._totals.setdefault(name, [0.0, 0.0])
            entry[0] += float(total)
            entry[1] += float(count)

    def means(self) -> dict[str, float]:
        """The mean of each name; a name whose count is zero is left out."""
        return {name: total / count for name, (total, count) in self._totals.items() if count > 0}


class Throughput:
    """Rates over a window of steps: work per second, waiting for data, and MFU.

    Args:
        flops_per_step: FLOPs of one global batch, forward and backward.
        peak: FLOP/s of all devices together; None gives no MFU.
    """

    def __init__(self, flops_per_step: float, peak: float | None):
        self._flops_per_step = flops_per_step
        self._peak = peak
        self._total: dict[str, float] = {}
        self._total_seconds = 0.0
        self.restart()
        self._created = self._begin

    def exclude(self, seconds: float) -> None:
        """Takes time out of the window that was not training, such as an evaluation."""
        self._begin += seconds

    def restart(self) -> None:
        """Begins an empty window now, as after the first step, which compiles."""
        self._begin = time.perf_counter()
        self._steps = 0
        self._wait = 0.0
        self._work: dict[str, float] = {}

    def add(self, work: Mapping[str, Any], wait: float) -> None:
        """Counts one finished step: its work by name, and seconds spent waiting for its batch."""
        self._steps += 1
        self._wait += wait
        for name, amount in work.items():
            self._work[name] = self._work.get(name, 0.0) + float(amount)

    def close_window(self) -> dict[str, float]:
        """Returns the `perf/` metrics of the window, adds it to the totals and begins a new one.

        `audio_seconds` is reported as hours of audio per second, other work as `<name>_per_s`;
        `perf/data_wait` is a share of the window's time, `perf/goodput` the share of all time so
        far in which steps ran: compilation, evaluation and previews are the rest.
        """
        now = time.perf_counter()
        seconds = max(now - self._begin, 1e-9)
        result = {}
        if self._steps:
            result = _rates(self._work, seconds)
            result["perf/step_s"] = seconds / self._steps
            result["perf/data_wait"] = self._wait / seconds
            if self._peak:
                result["perf/mfu"] = self._flops_per_step * self._steps / seconds / self._peak
            self._total_seconds += seconds
            result["perf/goodput"] = self._total_seconds / max(now - self._created, 1e-9)
            for name, amount in self._work.items():
                self._total[name] = self._total.get(name, 0.0) + amount
        self.restart()
        return result

    def totals(self) -> dict[str, float]:
        """The rates over all windows closed so far."""
        return _rates(self._total, self._total_seconds) if self._total_seconds else {}


def _rates(work: Mapping[str, float], seconds: float) -> dict[str, float]:
    rates = {}
    for name, amount in work.items():
        if name == "audio_seconds":
            rates["perf/audio_hours_per_s"] = amount / 3600 / seconds
        else:
            rates[f"perf/{name}_per_s"] = amount / seconds
    return rates


class MetricsWriter:
    """Appends to `metrics.jsonl` and to TensorBoard event files in one directory.

    On resume the lines beyond the restored step, and a last line cut short by a kill, are dropped,
    so that the file reads as if the run had never stopped.

    Args:
        directory: where the files stand; made when missing.
        restored_step: steps already done; 0 begins the file anew.
    """

    def __init__(self, directory: str | os.PathLike[str], restored_step: int = 0):
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._path = path = directory / METRICS_FILE
        kept = [line for line in read_metrics(path) if line["step"] <= restored_step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(temporary, path)
        self._file = path.open("a", encoding="utf-8")
        self._tensorboard = SummaryWriter(
            str(directory / "tensorboard"), purge_step=restored_step + 1, write_to_disk=True
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one line; it is on its way to the disk when this returns.

        Raises:
            OSError: the disk refuses, or the file has vanished below the run.
        """
        os.stat(self._path)
        values = {name: float(value) for name, value in values.items()}
        line: dict[str, float | None] = {"step": step, "time": round(time.time(), 3)}
        line |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in values.items():
            if math.isfinite(value):
                self._tensorboard.add_scalar(name, np.float32(value), step)

    def write_audio(self, step: int, name: str, wav: np.ndarray, sample_rate: int) -> None:
        """Writes a signal (N,) in [-1, 1] to TensorBoard, with its spectrogram as an image."""
        self._tensorboard.add_audio(
            name, np.clip(wav, -1, 1)[:, None], step, sample_rate=sample_rate
        )
        image = spectrogram_image(wav, sample_rate)
        self._tensorboard.add_image(f"{name}/spectrogram", image, step, dataformats="HW")

    def close(self) -> None:
        """Flushes and closes the files."""
        self._file.close()
        self._tensorboard.close()


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


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads a metrics file; a missing file is empty and a last line cut short is left out.

    Raises:
        ValueError: a line before the last is not JSON; the message names the file and line.
    """
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: not a metrics line: {line!r}") from error
    return entries


def format_duration(seconds: float) -> str:
    """Seconds as `1h02m`, `3m07s` or `12s`."""
    seconds = round(seconds)
    if seconds >= 3600:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    if seconds >= 60:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds}s"
