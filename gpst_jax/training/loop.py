"""The training loop, read from top to bottom: start, step, log, evaluate, save, stop.

Nothing here knows a model family: an `Objective` gives parameters, losses and counts, a `Loader`
gives batches of NumPy arrays, and everything else is the same for all.
"""

import contextlib
import dataclasses
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from gpst_jax.checkpoints.manager import Checkpoints
from gpst_jax.checkpoints.record import describe_run
from gpst_jax.checkpoints.storage import storing
from gpst_jax.config import ConfigError, RunConfig
from gpst_jax.config.run import TASK
from gpst_jax.objectives import Objective
from gpst_jax.parallel import sharding
from gpst_jax.trackers import Tracker
from gpst_jax.trackers.jsonl import METRICS_FILE, last_values
from gpst_jax.training import metrics
from gpst_jax.training.cadence import Cadence
from gpst_jax.training.continuation import Source
from gpst_jax.training.log import TrainLog
from gpst_jax.training.preview import Preview
from gpst_jax.training.profiler import Profiler
from gpst_jax.training.start import (
    checkpoint_items,
    claimed_workdir,
    mirrored,
    start_or_resume,
)
from gpst_jax.training.step import Batch, TrainState, make_eval_step, make_train_step
from gpst_jax.training.supervision import Interrupt, Watchdog

logger = logging.getLogger(__name__)


class Loader(Protocol):
    """An endless iterator of batches; each process gets its slice of the rows.

    `data_pipeline.loading.batches` states the arrays of a batch.
    """

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
    source: Source | None = None,
    preview: Preview | None = None,
    trackers: Sequence[Tracker] | None = None,
    profile_steps: range = range(0),
    skip_batches: range = range(0),
) -> TrainResult:
    """Trains to `config.train.steps`.

    Starts from the first of these that is there: the newest intact checkpoint in `workdir` (a
    corrupt one is set aside); `source`; `initial`; random initialisation from `config.train.seed`.
    SIGTERM and SIGINT end it after the step in progress, with a checkpoint; a second signal kills.

    Args:
        config: the run.
        objective: the model family.
        loader_factory: makes the loader of a split; None for `valid` means no evaluation.
        workdir: directory of checkpoints and metrics, or gs://BUCKET/NAME.
        dataset: contents of dataset.json; stored with each checkpoint.
        devices: None uses all.
        initial: gives the parameters of a new run from their shapes and shardings, see
            `warm_start`; None: random initialisation.
        source: a checkpoint of another run, with whose complete state a new run begins; every
            checkpoint of this one then has its `history`.
        preview: called every `train.preview_every` steps, by all processes.
        trackers: where this process writes its metrics; None: see `TrainLog`.
        profile_steps: steps that a profile is recorded of.
        skip_batches: numbers of batches, from 1, that are never read, as a DivergenceError names
            them. Batch k is what step k reads as long as nothing is skipped.

    Raises:
        ConfigError: mesh, batch size and batch do not fit together.
        CheckpointError: `workdir` holds another run, or no checkpoint in it is intact; or this run
            cannot continue from `source`.
        DivergenceError: `optimizer.max_skipped` steps in a row were skipped.
        StorageError: a checkpoint or the metrics cannot be written, or read back.
        UserError: another live run holds the workdir, or checkpoints cannot be kept there.
    """
    call_start, train_config = time.monotonic(), config.train
    mesh = sharding.make_mesh(config.mesh, devices)
    shard_batch = _make_shard_batch(objective, mesh)
    loader = _train_loader(loader_factory)
    run = describe_run(config, type(objective).__name__, dataset)

    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        interrupt = stack.enter_context(Interrupt())
        stack.enter_context(claimed_workdir(workdir))
        mirror = stack.enter_context(mirrored(workdir))
        train_step = make_train_step(objective, config, mesh)
        checkpoints = stack.enter_context(contextlib.closing(_checkpoints(config, workdir)))
        step, state, history = start_or_resume(
            checkpoints, objective, config, mesh, run, loader, initial, source
        )
        run |= {"history": history} if history else {}
        if skip_batches:
            loader.skip(*_rows(skip_batches, config.data.batch_size))
        log = TrainLog(config, objective, mesh, mirror.local, step, trackers, run)
        stack.enter_context(contextlib.closing(log))
        evaluate = _make_evaluate(objective, config, mesh, loader_factory, shard_batch, log)
        profiler = stack.enter_context(contextlib.closing(Profiler(mirror.local, profile_steps)))
        watchdog = stack.enter_context(contextlib.closing(_watchdog(config)))
        cadence = Cadence(train_config, preview is not None, config.eval)
        task = _task_evaluation(config, mirror.local)

        stop = False
        while step < train_config.steps and not stop:
            batch, number, data_wait = _fetch(loader, config.data.batch_size)
            profiler.before(step + 1)
            state, report = train_step(state, shard_batch(batch))
            step += 1
            log.step(step, report, data_wait, number)
            watchdog.beat()
            checkpoints.check()
            due = cadence.due(step, interrupt.received is not None)
            stop = due.stop
            if due:
                watchdog.pause()
                # All lines up to a checkpoint are written before it: a resume leaves no gap.
                log.flush()
                means = evaluate(step, state) if due.evaluate else {}
                if task is not None and due.task:
                    means |= log.preview(step, task, _sampled(state))
                if preview is not None and due.preview:
                    log.preview(step, preview, _sampled(state))
                if due.save:
                    with storing(workdir):
                        mirror.upload()
                    means = _comparable(config, means)
                    _save(checkpoints, step, state, run | {"data": loader.get_state()}, means, log)
                    cadence.saved()
                watchdog.beat()
        interrupted = stop and step < train_config.steps
        if interrupted:
            logger.info("stopped by %s: step %d is saved", interrupt.received, step)
        checkpoints.wait()  # a run has not finished before its last checkpoint is safe
        return TrainResult(
            steps=step,
            interrupted=interrupted,
            parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
            skipped_steps=int(state.guard.skipped),
            wall_s=time.monotonic() - call_start,
            rates=log.throughput.totals(),
            final=last_values(mirror.local / METRICS_FILE),
        )


def _checkpoints(config: RunConfig, workdir: str | os.PathLike[str]) -> Checkpoints:
    keep = config.train
    return Checkpoints(workdir, keep.keep_latest, keep.keep_every, keep.keep_best, keep.best_metric)


def _watchdog(config: RunConfig) -> Watchdog:
    stall = config.train
    return Watchdog(stall.stall_factor, stall.stall_seconds, 60 * stall.stall_abort_minutes)


def _fetch(loader: Loader, batch_size: int) -> tuple[Batch, int, float]:
    """The next batch, its number in the plan from 1, and the seconds that it took."""
    start, number = time.perf_counter(), loader.row // batch_size + 1
    batch = next(loader)
    return batch, number, time.perf_counter() - start


def _save(
    checkpoints: Checkpoints,
    step: int,
    state: TrainState,
    run: Mapping[str, Any],
    means: dict[str, float],
    log: TrainLog,
) -> None:
    """Starts a checkpoint; arrays are written while the next steps run."""
    start = time.perf_counter()
    checkpoints.save(step, checkpoint_items(state), dict(run) | {"step": step}, means)
    log.saved(time.perf_counter() - start)


def _task_evaluation(config: RunConfig, workdir: Path) -> Preview | None:
    """The evaluation of generated speech that the run asks for, if it does."""
    if not config.eval.task:
        return None
    # Recognisers, tasks and samples: most runs need none of it.
    from gpst_jax.training.task_evaluation import make_task_evaluation

    return make_task_evaluation(config, workdir)


def _comparable(config: RunConfig, means: dict[str, float]) -> dict[str, float]:
    """What a checkpoint is compared by: nothing where the task that decides was not due."""
    best = config.train.best_metric
    return means if not best.startswith(TASK) or best in means else {}


def _train_loader(loader_factory: Callable[[str], Loader | None]) -> Loader:
    loader = loader_factory("train")
    if loader is None:
        raise ConfigError("config field data.path: the dataset has no train split")
    return loader


def _rows(batches: range, batch_size: int) -> tuple[int, int]:
    """First row of batches that are numbered from 1, and the row after their last."""
    return batch_size * (batches.start - 1), batch_size * (batches.stop - 1)


def _sampled(state: TrainState) -> Any:
    """The parameters that sampling will use: the moving average where there is one."""
    return state.params if state.ema is None else state.ema


def _make_evaluate(
    objective: Objective,
    config: RunConfig,
    mesh: jax.sharding.Mesh,
    loader_factory: Callable[[str], Loader | None],
    shard_batch: Callable[[Batch], Batch],
    log: TrainLog,
) -> Callable[[int, TrainState], dict[str, float]]:
    """A function (step, state) -> means over the same `eval_batches` held-out batches."""
    batches = config.train.eval_batches
    loader = loader_factory("valid") if batches else None
    if loader is None:
        return lambda step, state: {}
    first = loader.get_state()
    eval_step = make_eval_step(objective, mesh)

    def evaluate(step: int, state: TrainState) -> dict[str, float]:
        start = time.perf_counter()
        loader.set_state(first)
        means = metrics.Means()
        for batch in itertools.islice(loader, batches):
            means.add(jax.device_get(eval_step(_sampled(state), shard_batch(batch))))
        log.evaluated(step, means.means(), time.perf_counter() - start)
        return means.means()

    return evaluate


def _make_shard_batch(objective: Objective, mesh: jax.sharding.Mesh) -> Callable[[Batch], Batch]:
    """A function that checks a batch of this process and shards its rows over the devices."""
    spec = objective.batch_spec()
    where = sharding.batch_sharding(mesh)
    processes = jax.process_count()

    def shard_batch(batch: Batch) -> Batch:
        expected = {
            name: ((leaf.shape[0] // processes, *leaf.shape[1:]), np.dtype(leaf.dtype).name)
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

    return shard_batch
