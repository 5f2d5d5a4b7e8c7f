"""Trackers that a run can do without: whatever fails in them, it goes on."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipeline.runtime.endings import one_line
from gpst_jax.trackers.base import Tracker

logger = logging.getLogger(__name__)

_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)
_LONGEST = 300


class OptionalTracker:
    """A tracker whose first failure is logged as one line; after it nothing is written any more.

    Args:
        name: for that line.
        tracker: the tracker.
    """

    def __init__(self, name: str, tracker: Tracker):
        self._name, self._tracker, self._failed = name, tracker, False

    def start(self, run_id: str, config: Mapping[str, Any], step: int) -> None:
        """See `Tracker`."""
        self._call("start", run_id, config, step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._call("write", step, values)

    def write_audio(self, step: int, name: str, wav: np.ndarray, sample_rate: int) -> None:
        """See `Tracker`."""
        self._call("write_audio", step, name, wav, sample_rate)

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """See `Tracker`."""
        self._call("write_image", step, name, image)

    def write_table(
        self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> None:
        """See `Tracker`."""
        self._call("write_table", step, name, columns, rows)

    def saved(self, step: int) -> None:
        """See `Tracker`."""
        self._call("saved", step)

    def close(self) -> None:
        """See `Tracker`; a tracker that has failed is closed too."""
        failed, self._failed = self._failed, False
        self._call("close", quiet=failed)

    def _call(self, method: str, *arguments: Any, quiet: bool = False) -> None:
        if self._failed:
            return
        try:
            getattr(self._tracker, method)(*arguments)
        except Exception as error:  # of a library, and of any kind
            self._failed = True
            if not quiet:
                logger.warning(
                    "%s: %s; the run goes on without it", self._name, without_secrets(error)
                )


def without_secrets(error: Exception) -> str:
    """The message of an error on one line, values of secret environment variables masked."""
    text = one_line(error)
    secrets = [value for name, value in os.environ.items() if _SECRET.search(name)]
    for value in sorted(secrets, key=len, reverse=True):
        if len(value) >= 8:  # shorter ones are words such as `true`
            text = text.replace(value, "***")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
