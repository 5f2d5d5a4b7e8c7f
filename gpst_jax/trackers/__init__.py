"""Where the numbers of a run go, behind one protocol.

Console, JSON lines and TensorBoard are always written. Others are asked for by name: a new one is a
file here and an entry in `OTHERS`.
"""

import os
from collections.abc import Callable, Iterable

from data_pipeline.runtime.errors import UserError
from gpst_jax.trackers.base import Tracker, Workdir
from gpst_jax.trackers.console import ConsoleTracker
from gpst_jax.trackers.jsonl import JSONLinesTracker
from gpst_jax.trackers.optional import OptionalTracker
from gpst_jax.trackers.tensorboard import TensorBoardTracker
from gpst_jax.trackers.trackio import TrackioTracker
from gpst_jax.trackers.wandb import WandbTracker

__all__ = ["OTHERS", "TRACKERS", "Tracker", "check_names", "make_trackers"]

TRACKERS: dict[str, Callable[[Workdir], Tracker]] = {
    "console": ConsoleTracker,
    "jsonl": JSONLinesTracker,
    "tensorboard": lambda workdir: OptionalTracker("tensorboard", TensorBoardTracker(workdir)),
}
# These take the name of a project too; None: their own default.
OTHERS: dict[str, Callable[[Workdir, str | None], Tracker]] = {
    "wandb": lambda workdir, project: OptionalTracker("wandb", WandbTracker(workdir, project)),
    "trackio": lambda workdir, project: OptionalTracker(
        "trackio", TrackioTracker(workdir, project)
    ),
}


def check_names(names: Iterable[str]) -> None:
    """Raises UserError for a name in `--trackers` that no tracker has."""
    known = [*TRACKERS, *OTHERS]
    for name in names:
        if name not in known:
            raise UserError(f"--trackers={name}: choose from {', '.join(known)}")


def make_trackers(
    workdir: str | os.PathLike[str], names: Iterable[str] = (), project: str | None = None
) -> list[Tracker]:
    """The trackers of a run; nothing is written before their `start`.

    Args:
        workdir: of the run.
        names: of `OTHERS`, in addition to all of `TRACKERS`, which may be named as well.
        project: for those of `OTHERS`; None: the one that they are set to by the environment.

    Raises:
        UserError: there is no tracker of such a name.
    """
    chosen = list(dict.fromkeys(names))
    check_names(chosen)
    always = [make(workdir) for make in TRACKERS.values()]
    return always + [OTHERS[name](workdir, project) for name in chosen if name in OTHERS]
