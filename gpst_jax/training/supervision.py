"""Signals that ask a run to stop, and a watchdog for steps that hang."""

import faulthandler
import logging
import os
import signal
import statistics
import sys
import threading
import time
from collections import deque
from typing import Any, TextIO

from data_pipeline.runtime import exit_codes
from data_pipeline.runtime.progress import format_duration

logger = logging.getLogger(__name__)

_INTERVALS = 50  # steps in the running median


class Interrupt:
    """While open, SIGTERM and SIGINT only set `received`; a second signal acts as usual."""

    def __init__(self):
        self.received: str | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: Any) -> None:
        self.received = signal.Signals(number).name
        self.__exit__()

    def __exit__(self, *unused: Any) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous = {}


class Watchdog:
    """Prints stack traces of all threads when no step ends for long; then ends the process.

    A hung collective or file system raises nothing by itself: a slice would sit idle.

    Args:
        factor: a step counts as stalled after this multiple of the median step time.
        minimum_s: but not before this many seconds.
        abort_s: after so many seconds the process exits with code 70, so that whatever started it
            can restart it; 0: never.
        file: where the stack traces go; must have a file descriptor. None: standard error.
    """

    def __init__(self, factor: float, minimum_s: float, abort_s: float, file: TextIO | None = None):
        self._factor, self._minimum, self._abort = factor, minimum_s, abort_s
        self._file = file
        self._intervals: deque[float] = deque(maxlen=_INTERVALS)
        self._last = time.monotonic()
        self._quiet = True  # nothing is printed until steps run
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def beat(self) -> None:
        """Called when a step has ended, or when steps resume after a pause."""
        now = time.monotonic()
        if not self._quiet:
            self._intervals.append(now - self._last)
        self._last, self._quiet = now, False

    def pause(self) -> None:
        """Until the next `beat` only `abort_s` counts: for work other than steps."""
        self._last, self._quiet = time.monotonic(), True

    def close(self) -> None:
        """Ends the watch."""
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._minimum / 4)):
            silence = time.monotonic() - self._last
            if self._abort and silence > self._abort:
                self._dump(f"no step has ended for {format_duration(silence)}: giving up")
                os._exit(exit_codes.STALLED)
            intervals = list(self._intervals)
            if self._quiet or not intervals:
                continue
            if silence > max(self._minimum, self._factor * statistics.median(intervals)):
                self._quiet = True
                self._dump(f"no step has ended for {format_duration(silence)}")

    def _dump(self, message: str) -> None:
        logger.error("%s; stacks of all threads follow", message)
        file = self._file or sys.stderr
        faulthandler.dump_traceback(file=file, all_threads=True)
        file.flush()
