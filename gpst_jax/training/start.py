"""Where a run starts: from its newest intact checkpoint, else from initial parameters."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, Protocol

import jax

from data_pipeline.runtime import claim
from data_pipeline.runtime.errors import UserError
from gpst_jax.checkpoints import record
from gpst_jax.checkpoints.manager import Checkpoints
from gpst_jax.checkpoints.storage import check_name, storing
from gpst_jax.config import RunConfig
from gpst_jax.objectives import Objective
from gpst_jax.parallel import multihost
from gpst_jax.training.step import TrainState, abstract_state, init_state

logger = logging.getLogger(__name__)


class DataState(Protocol):
    """What the start of a run needs of a loader."""

    def get_state(self) -> dict[str, Any]:
        """See `loop.Loader`."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """See `loop.Loader`."""
        ...


class Start(NamedTuple):
    """A training state and the number of finished steps in it."""

    step: int
    state: TrainState


@contextmanager
def claimed_workdir(workdir: str | os.PathLike[str]) -> Iterator[None]:
    """Holds the workdir for this run, see `claim`; all its processes share what process 0 holds.

    Raises:
        UserError: another live run holds it, or checkpoints cannot be kept under its name; in every
            process.
        StorageError: the storage fails.
    """
    check_name(workdir)
    with ExitStack() as stack:
        failure: Exception | None = None
        if jax.process_index() == 0:
            try:
                with storing(workdir):
                    stack.enter_context(claim.claimed(workdir))
            except Exception as error:  # the others must not wait for this process
                failure = error
        (refused,) = multihost.any_process(failure is not None)
        if refused:
            raise failure or UserError(f"process 0 cannot have {workdir}: its log says why")
        yield


def start_or_resume(
    checkpoints: Checkpoints,
    objective: Objective,
    config: RunConfig,
    mesh: jax.sharding.Mesh,
    run: Mapping[str, Any],
    loader: DataState,
    initial: Callable[[Any], Any] | None,
) -> Start:
    """Restores the newest intact checkpoint, and the loader's data state with it, or initialises.

    Corrupt checkpoints beside an intact one are set aside, not deleted.

    Args:
        checkpoints: of the workdir.
        objective: the model family.
        config: the run.
        mesh: the devices.
        run: `record.describe_run` of this run, which a checkpoint must fit.
        loader: of the training split.
        initial: see `loop.train`.

    Raises:
        CheckpointError: the checkpoints are of another run, or none of them is intact.
    """
    if not checkpoints.steps:
        return Start(0, init_state(objective, config, mesh, initial))
    step, state, data_state = _restore(checkpoints, objective, config, mesh, run, loader)
    loader.set_state(data_state)
    logger.info("restored step %d of %s", step, checkpoints.directory)
    return Start(step, state)


def checkpoint_items(state: TrainState) -> dict[str, Any]:
    """The state as the items of a checkpoint; parameters are an item of their own, for sampling."""
    rest = {"step": state.step, "opt_state": state.opt_state, "rng": state.rng}
    items = {"params": state.params, "train": rest | {"guard": state.guard}}
    return items if state.ema is None else items | {"ema": state.ema}


def _restore(
    checkpoints: Checkpoints, objective, config: RunConfig, mesh, run, loader
) -> tuple[int, TrainState, dict[str, Any]]:
    """The newest intact checkpoint: its step, state and the loader's state."""
    damaged = []
    for step in reversed(checkpoints.steps):
        try:
            saved = checkpoints.read_record(step)
            current = dict(run) | {"data": loader.get_state()}
            changes = record.check_resume(saved, current, checkpoints.directory)
            items = checkpoints.restore(
                step, checkpoint_items(abstract_state(objective, config, mesh))
            )
        except record.DamagedCheckpointError as error:
            logger.error("damaged checkpoint: %s", error)
            damaged.append(step)
            continue
        for change in changes:
            logger.warning("resuming with a changed configuration: %s", change)
        for bad in damaged:
            aside = checkpoints.set_aside(bad)
            logger.error("step %d is now in %s; resuming from step %d", bad, aside, step)
        state = TrainState(params=items["params"], ema=items.get("ema"), **items["train"])
        return step, state, saved["data"]
    raise record.CheckpointError(
        f"no checkpoint in {checkpoints.directory} can be read (steps {sorted(damaged)}): restore "
        "one from a copy, or begin anew in another --workdir"
    )
