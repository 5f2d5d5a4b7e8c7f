"""Where a run starts: from its newest checkpoint, that of another run, or initial parameters."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple, Protocol

import jax

from data_pipeline.runtime import bucket_claim, claim
from data_pipeline.runtime.buckets import is_bucket
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.mirror import Mirror
from gpst_jax.checkpoints import record
from gpst_jax.checkpoints.manager import Checkpoints, reading
from gpst_jax.checkpoints.storage import check_name, storing
from gpst_jax.config import RunConfig
from gpst_jax.objectives import Objective
from gpst_jax.parallel import multihost
from gpst_jax.training.continuation import Source, check_history, compare, history_with
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
    """A training state, the number of finished steps in it, and the runs that it comes from."""

    step: int
    state: TrainState
    history: list[dict[str, Any]]  # see `continuation.history_with`; empty: it began by itself


@contextmanager
def mirrored(workdir: str | os.PathLike[str]) -> Iterator[Mirror]:
    """The mirror of the workdir, which process 0 of the run keeps; see `mirror`.

    Raises:
        StorageError: the bucket cannot be read at the start, or written at the end.
    """
    mirror = Mirror(workdir)
    if jax.process_index() != 0:
        yield mirror
        return
    with storing(workdir):
        mirror.open()
    try:
        yield mirror
    except BaseException:
        with suppress(OSError):  # what ended the run is what is reported
            mirror.close()
        raise
    with storing(workdir):
        mirror.close()


@contextmanager
def claimed_workdir(workdir: str | os.PathLike[str]) -> Iterator[None]:
    """Holds the workdir for this run, see `claim` and, in a bucket, `bucket_claim`.

    All processes of the run share what process 0 holds.

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
                    holds = bucket_claim if is_bucket(workdir) else claim
                    stack.enter_context(holds.claimed(workdir))
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
    source: Source | None = None,
) -> Start:
    """Restores the newest intact checkpoint, and the loader's data state with it, or initialises.

    Corrupt checkpoints beside an intact one are set aside, not deleted. Where there is none, a run
    with a source begins with the checkpoint of another run.

    Args:
        checkpoints: of the workdir.
        objective: the model family.
        config: the run.
        mesh: the devices.
        run: `record.describe_run` of this run, which a checkpoint must fit.
        loader: of the training split.
        initial: see `loop.train`.
        source: see `loop.train`.

    Raises:
        CheckpointError: the checkpoints are of another run, or none of them is intact; or this run
            cannot continue from the source.
    """
    if checkpoints.steps:
        step, state, saved = _restore(checkpoints, objective, config, mesh, run, loader)
        history = saved.get("history", [])
        if source is not None:
            check_history(history, source, checkpoints.directory)
        loader.set_state(saved["data"])
        logger.info("restored step %d of %s", step, checkpoints.directory)
        return Start(step, state, history)
    if source is not None:
        return _continue(source, objective, config, mesh, run, loader)
    return Start(0, init_state(objective, config, mesh, initial), [])


def _continue(source: Source, objective, config: RunConfig, mesh, run, loader: DataState) -> Start:
    """The state of a checkpoint of another run; the data goes on with it, or begins anew."""
    with reading(source.workdir, source.step) as (checkpoints, step):
        saved = checkpoints.read_record(step)
        found = compare(saved, dict(run) | {"data": loader.get_state()}, source)
        items = checkpoints.restore(step, checkpoint_items(abstract_state(objective, config, mesh)))
    logger.info("continuing from %s", source)
    for change in found.changes:
        logger.info("changed: %s", change)
    if found.keeps_data:
        loader.set_state(saved["data"])
    else:
        logger.warning("the data begins anew at row 0: it is not that of %s", source)
    return Start(step, _train_state(items), history_with(saved, source, found))


def checkpoint_items(state: TrainState) -> dict[str, Any]:
    """The state as the items of a checkpoint; parameters are an item of their own, for sampling."""
    rest = {"step": state.step, "opt_state": state.opt_state, "rng": state.rng}
    items = {"params": state.params, "train": rest | {"guard": state.guard}}
    return items if state.ema is None else items | {"ema": state.ema}


def _train_state(items: Mapping[str, Any]) -> TrainState:
    """Inverse of `checkpoint_items`."""
    return TrainState(params=items["params"], ema=items.get("ema"), **items["train"])


def _restore(
    checkpoints: Checkpoints, objective, config: RunConfig, mesh, run, loader
) -> tuple[int, TrainState, dict[str, Any]]:
    """The newest intact checkpoint: its step, state and record."""
    damaged = []
    for step in reversed(checkpoints.steps):
        try:
            saved = checkpoints.read_record(step)
            current = dict(run) | {"data": loader.get_state()}
            changes = record.check_resume(saved, current, checkpoints.directory)
            wanted = checkpoint_items(abstract_state(objective, config, mesh))
            items = checkpoints.restore(step, wanted, described=True)
        except record.DamagedCheckpointError as error:
            logger.error("damaged checkpoint: %s", error)
            damaged.append(step)
            continue
        for change in changes:
            logger.warning("resuming with a changed configuration: %s", change)
        for bad in damaged:
            aside = checkpoints.set_aside(bad)
            logger.error("step %d is now in %s; resuming from step %d", bad, aside, step)
        return step, _train_state(items), saved
    raise record.CheckpointError(
        f"no checkpoint in {checkpoints.directory} can be read (steps {sorted(damaged)}): restore "
        "one from a copy, or begin anew in another --workdir"
    )
