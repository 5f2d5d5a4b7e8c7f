"""Means over steps, throughput and MFU.

A metric is a pair (sum, count), so that means over micro-batches, hosts and steps are exact
whatever the number of tokens in each.
"""

import time
from collections.abc import Mapping
from typing import Any


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
    """Rates over a window of steps: work per second, data wait, and MFU.

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
        `perf/data_wait` is a fraction of the window's time, `perf/goodput` the fraction of all time
        so far in which steps ran: compilation, evaluation and previews are the rest.
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
