"""The training loop, read from top to bottom: restore, step, log, evaluate, save, stop.

Nothing here knows a model family: an `Objective` gives parameters, losses and counts, a `Loader`
gives batches of NumPy arrays, and everything else is the same for all.
"""

import contextlib
import dataclasses
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from gpst_jax.checkpoints.manager import Checkpoints
from gpst_jax.checkpoints.record import (
    CheckpointError,
    DamagedCheckpointError,
    check_resume,
    describe_run,
)
from gpst_jax.config import ConfigError, RunConfig
from gpst_jax.objectives import Objective
from gpst_jax.parallel import multihost, sharding
from gpst_jax.training import metrics
from gpst_jax.training.log import TrainLog
from gpst_jax.training.preview import Preview
from gpst_jax.training.profiler import Profiler
from gpst_jax.training.step import (
    Batch,
    TrainState,
    abstract_state,
    init_state,
    make_eval_step,
    make_train_step,
)
from gpst_jax.training.supervision import Interrupt, Watchdog

logger = logging.getLogger(__name__)


class Loader(Protocol):
    """An endless iterator of batches; each process gets its slice of the rows."""

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]: ...

    def __next__(self) -> dict[str, np.ndarray]: ...

    @property
    def row(self) -> int:
        """The global number of the next row."""
        ...

    def skip(self, first: int, end: int) -> None:
        """Never reads the rows from `first` up to `end`; the state remembers it."""
        ...

    def get_state(self) -> dict[str, Any]:
        """JSON that names the next row, and under `plan` the fingerprint of the packing plan."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues at a state; refuses one of another plan."""
        ...


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """How a call of `train` ended."""

    steps: int  # finished steps, those of earlier calls included
    interrupted: bool  # a signal ended it; the state is saved
    parameters: int
    skipped_steps: int
    wall_s: float  # of this call
    rates: dict[str, float]  # `perf/...` over this call's training time, compilation left out
    final: dict[str, float]  # the last value of each metric written


def train(
    config: RunConfig,
    objective: Objective,
    loader_factory: Callable[[str], Loader | None],
    workdir: str | os.PathLike[str],
    *,
    dataset: Mapping[str, Any],
    devices: list[jax.Device] | None = None,
    initial: Callable[[Any], Any] | None = None,
    preview: Preview | None = None,
    profile_steps: range = range(0),
    skip_batches: range = range(0),
) -> TrainResult:
    """Trains to `config.train.steps`, from the newest checkpoint in `workdir` if there is one.

    SIGTERM and SIGINT end it after the step in progress, with a checkpoint; a second signal kills.
    A damaged checkpoint is set aside, and the one before it is taken.

    Args:
        config: the run.
        objective: the model family.
        loader_factory: makes the loader of split `train` or `valid`; for `valid` it may return
            None, and nothing is evaluated then.
        workdir: directory of checkpoints and metrics.
        dataset: contents of dataset.json; stored with each checkpoint.
        devices: None uses all.
        initial: gives the parameters that a new run begins with, from their shapes and shardings;
            None draws them. See `warm_start`.
        preview: called every `train.preview_every` steps, by all processes.
        profile_steps: steps that a profile is recorded of.
        skip_batches: numbers of batches, from 1, that are never read. Batch k is what step k reads
            as long as nothing is skipped; the message of a DivergenceError names them.

    Raises:
        ConfigError: the mesh, rows or batch do not fit together.
        run_record.CheckpointError: `workdir` holds another run, or no checkpoint in it is whole.
        train_log.DivergenceError: `optimizer.max_skipped` steps in a row were skipped.
        storage.StorageError: a checkpoint or the metrics cannot be written.
    """
    began = time.monotonic()
    settings = config.train
    mesh = sharding.make_mesh(config.mesh, devices)
    put = _make_put(objective, mesh)
    loader = loader_factory("train")
    if loader is None:
        raise ConfigError("config field data.path: the dataset has no train split")
    valid_loader = loader_factory("valid") if settings.eval_batches else None
    valid_start = valid_loader.get_state() if valid_loader else {}
    run = describe_run(config, type(objective).__name__, dataset)

    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        interrupt = stack.enter_context(Interrupt())
        train_step = make_train_step(objective, config, mesh)
        eval_step = make_eval_step(objective, mesh)

        # Continue where the newest checkpoint stands, or begin.
        saves = Checkpoints(
            workdir,
            settings.keep_latest,
            settings.keep_every,
            settings.keep_best,
            settings.best_metric,
        )
        stack.callback(saves.close)
        saved_step = 0
        if saves.steps:
            saved_step, state, data_state = _restore(saves, objective, config, mesh, run, loader)
            loader.set_state(data_state)
            logger.info("restored step %d of %s", saved_step, workdir)
        else:
            state = init_state(objective, config, mesh, initial)
        if skip_batches:
            loader.skip(
                *(config.data.batch_size * (k - 1) for k in (skip_batches[0], skip_batches.stop))
            )
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        log = TrainLog(config, objective, mesh, workdir, saved_step)
        stack.callback(log.close)
        profiler = Profiler(workdir, profile_steps)
        stack.callback(profiler.close)
        watchdog = Watchdog(
            settings.stall_factor, settings.stall_seconds, 60 * settings.stall_abort_minutes
        )
        stack.callback(watchdog.close)

        def evaluate(step: int) -> dict[str, float]:
            if valid_loader is None:
                return {}
            start = time.perf_counter()
            params = state.params if state.ema is None else state.ema  # what sampling will use
            valid_loader.set_state(valid_start)
            means = metrics.Means()
            for batch in itertools.islice(valid_loader, settings.eval_batches):
                means.add(jax.device_get(eval_step(params, put(batch))))
            log.evaluated(step, means.means(), time.perf_counter() - start)
            return means.means()

        def save(step: int, means: dict[str, float]) -> None:
            start = time.perf_counter()
            record = run | {"data": loader.get_state(), "step": step}
            saves.save(step, _items(state), record, means)
            log.saved(time.perf_counter() - start)

        step, late, stop = saved_step, None, False
        last_save = time.monotonic()
        while step < settings.steps and not stop:
            asked = time.perf_counter()
            number = loader.row // config.data.batch_size + 1
            batch = next(loader)
            wait = time.perf_counter() - asked
            profiler.before(step + 1)
            state, report = train_step(state, put(batch))
            step += 1
            # Reading the previous step's numbers while this one runs never idles the devices.
            if late is not None:
                log.finish(*late)
            late = (step, report, wait, number)
            watchdog.beat()
            saves.check()

            overdue = time.monotonic() - last_save > 60 * settings.checkpoint_every_minutes
            wishes = (interrupt.received is not None, overdue)
            if jax.process_count() == 1 or step % settings.log_every == 0:
                stop, overdue = multihost.any_process(*wishes)  # all must do the same
            else:
                stop, overdue = False, False
            due_eval = settings.eval_every and step % settings.eval_every == 0
            due_save = overdue or step % settings.checkpoint_every_steps == 0
            last = step == settings.steps
            due_preview = preview and settings.preview_every and step % settings.preview_every == 0
            if due_eval or due_save or due_preview or stop or last:
                watchdog.pause()
                # All lines up to a checkpoint are written before it: a resume leaves no gap.
                log.finish(*late)
                late = None
                means = evaluate(step) if due_eval or last else {}
                if preview and due_preview:
                    log.preview(step, preview, state.params if state.ema is None else state.ema)
                if due_save or stop or last:
                    save(step, means)
                    saved_step, last_save = step, time.monotonic()
                watchdog.beat()
        interrupted = stop and step < settings.steps
        if interrupted:
            logger.info("stopped by %s: step %d is saved", interrupt.received, saved_step)
        skipped = int(state.guard.skipped)
        rates = log.throughput.totals()
        saves.wait()  # a run has not finished before its last checkpoint is safe
        final = log.final_values()
    return TrainResult(
        steps=step,
        interrupted=interrupted,
        parameters=parameters,
        skipped_steps=skipped,
        wall_s=time.monotonic() - began,
        rates=rates,
        final=final,
    )


def _make_put(objective: Objective, mesh: jax.sharding.Mesh) -> Callable[[Batch], Batch]:
    """A function that checks a batch of this process and puts its rows on the devices."""
    spec = objective.batch_spec()
    where = sharding.batch_sharding(mesh)
    multihost = jax.process_count()

    def put(batch: Batch) -> Batch:
        expected = {
            name: ((leaf.shape[0] // multihost, *leaf.shape[1:]), np.dtype(leaf.dtype).name)
            for name, leaf in spec.items()
        }
        found = {name: (array.shape, array.dtype.name) for name, array in batch.items()}
        for name in sorted(expected.keys() | found.keys()):
            if found.get(name) != expected.get(name):
                raise ConfigError(
                    f"config field data: batch array {name!r} is {found.get(name)}, the objective "
                    f"expects {expected.get(name)} (shape in this process, dtype)"
                )
        return {
            name: jax.make_array_from_process_local_data(where, array, spec[name].shape)
            for name, array in batch.items()
        }

    return put


def _items(state: TrainState) -> dict[str, Any]:
    """The state as the items of a checkpoint; parameters apart, for those who only sample."""
    rest = {"step": state.step, "opt_state": state.opt_state, "rng": state.rng}
    items = {"params": state.params, "train": rest | {"guard": state.guard}}
    return items if state.ema is None else items | {"ema": state.ema}


def _restore(
    saves: Checkpoints, objective, config: RunConfig, mesh, run, loader
) -> tuple[int, TrainState, dict[str, Any]]:
    """The newest checkpoint that is whole: its step, state and the loader's state."""
    damaged = []
    for step in reversed(saves.steps):
        try:
            record = saves.read_record(step)
            current = run | {"data": loader.get_state()}
            changes = check_resume(record, current, saves.directory)
            items = saves.restore(step, _items(abstract_state(objective, config, mesh)))
        except DamagedCheckpointError as error:
            logger.error("damaged checkpoint: %s", error)
            damaged.append(step)
            continue
        for change in changes:
            logger.warning("resuming with a changed configuration: %s", change)
        for bad in damaged:
            logger.error("step %d is now in %s; going on from %d", bad, saves.set_aside(bad), step)
        state = TrainState(params=items["params"], ema=items.get("ema"), **items["train"])
        return step, state, record["data"]
    raise CheckpointError(
        f"no checkpoint in {saves.directory} can be read (steps {sorted(damaged)}): restore one "
        "from a copy, or begin anew in another --workdir"
    )
