"""Where the numbers of a run go: console, JSON lines, TensorBoard, behind one protocol.

A new tracker is a file here and an entry in `TRACKERS`.
"""

import os
from collections.abc import Callable, Sequence

from gpst_jax.trackers.base import Tracker, Workdir
from gpst_jax.trackers.console import ConsoleTracker
from gpst_jax.trackers.jsonl import JSONLinesTracker
from gpst_jax.trackers.tensorboard import TensorBoardTracker

__all__ = ["TRACKERS", "Tracker", "make_trackers"]

TRACKERS: dict[str, Callable[[Workdir], Tracker]] = {
    "console": ConsoleTracker,
    "jsonl": JSONLinesTracker,
    "tensorboard": TensorBoardTracker,
}


def make_trackers(
    workdir: str | os.PathLike[str], names: Sequence[str] = tuple(TRACKERS)
) -> list[Tracker]:
    """The trackers of a run, by name; nothing is written before their `start`."""
    return [TRACKERS[name](workdir) for name in names]
