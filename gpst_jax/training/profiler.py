"""Profiles of a few training steps, for TensorBoard or XProf."""

import logging
import os
from pathlib import Path

import jax

logger = logging.getLogger(__name__)


class Profiler:
    """Records a trace of the given steps, under `profile/` of the workdir.

    Args:
        workdir: directory of the run.
        steps: numbers of the steps, the first of a run being 1; empty records nothing.
    """

    def __init__(self, workdir: str | os.PathLike[str], steps: range):
        self._directory = str(Path(workdir) / "profile")
        self._steps = steps
        self._running = False

    def before(self, step: int) -> None:
        """Called before each step begins."""
        if step in self._steps and not self._running:
            jax.profiler.start_trace(self._directory)
            self._running = True
        elif self._running and step not in self._steps:
            self.close()

    def close(self) -> None:
        """Ends a trace that is being recorded."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            logger.info("profile of steps %s written to %s", self._steps, self._directory)
