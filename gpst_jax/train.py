"""The training loop, read from top to bottom: restore, step, log, evaluate, save, stop.

Nothing here knows a model family: an `Objective` gives parameters, losses and counts, a `Loader`
gives batches of NumPy arrays, and everything else is the same for all.
"""

import contextlib
import dataclasses
import itertools
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from gpst_jax import checkpoint, chips, metrics, sharding
from gpst_jax.config import ConfigError, RunConfig
from gpst_jax.objectives import Objective
from gpst_jax.preview import Preview
from gpst_jax.profiling import Profiler
from gpst_jax.train_step import (
    Batch,
    StepMetrics,
    TrainState,
    abstract_state,
    init_state,
    make_eval_step,
    make_train_step,
)

# A logger of its own: the libraries around log through absl's at the same level.
logger = logging.getLogger(__name__)


class DivergenceError(Exception):
    """Too many steps in a row had a gradient that could not be used."""


class Loader(Protocol):
    """An endless iterator of batches; each process gets its slice of the rows."""

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]: ...

    def __next__(self) -> dict[str, np.ndarray]: ...

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
    preview: Preview | None = None,
    profile_steps: range = range(0),
) -> TrainResult:
    """Trains to `config.train.steps`, from the newest checkpoint in `workdir` if there is one.

    SIGTERM and SIGINT end it after the step in progress, with a checkpoint; a second signal kills.

    Args:
        config: the run.
        objective: the model family.
        loader_factory: makes the loader of split `train` or `valid`; for `valid` it may return
            None, and nothing is evaluated then.
        workdir: directory of checkpoints and metrics.
        dataset: contents of dataset.json; stored with each checkpoint.
        devices: None uses all.
        preview: called every `train.preview_every` steps; needs all parameters in one process.
        profile_steps: steps that a profile is recorded of.

    Raises:
        ConfigError: the mesh, rows or batch do not fit together.
        checkpoint.CheckpointError: `workdir` holds another run.
        DivergenceError: `optimizer.max_skipped` steps in a row were skipped.
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
    run = checkpoint.describe_run(config, type(objective).__name__, dataset)

    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        interrupt = stack.enter_context(Interrupt())
        train_step = make_train_step(objective, config, mesh)
        eval_step = make_eval_step(objective, mesh)

        # Continue where the newest checkpoint stands, or begin.
        saves = checkpoint.Checkpoints(workdir, settings.keep_latest, settings.keep_every)
        stack.callback(saves.close)
        saved_step = saves.steps[-1] if saves.steps else 0
        if saves.steps:
            state, data_state = _restore(saves, saved_step, objective, config, mesh, run, loader)
            loader.set_state(data_state)
            logger.info("restored step %d of %s", saved_step, workdir)
        else:
            state = init_state(objective, config, mesh)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        log = _Log(config, objective, mesh, workdir, saved_step)
        stack.callback(log.close)
        profiler = Profiler(workdir, profile_steps)
        stack.callback(profiler.close)

        def evaluate(step: int) -> None:
            if valid_loader is None:
                return
            start = time.perf_counter()
            params = state.params if state.ema is None else state.ema  # what sampling will use
            valid_loader.set_state(valid_start)
            means = metrics.Means()
            for batch in itertools.islice(valid_loader, settings.eval_batches):
                means.add(jax.device_get(eval_step(params, put(batch))))
            log.evaluated(step, means.means(), time.perf_counter() - start)

        def save(step: int) -> None:
            items = _items(state)
            saves.save(step, items, run | {"data": loader.get_state(), "step": step})

        step, late, stop = saved_step, None, False
        last_save = time.monotonic()
        while step < settings.steps and not stop:
            asked = time.perf_counter()
            batch = next(loader)
            wait = time.perf_counter() - asked
            profiler.before(step + 1)
            state, report = train_step(state, put(batch))
            step += 1
            # Reading the previous step's numbers while this one runs never idles the devices.
            if late is not None:
                log.finish(*late)
            late = (step, report, wait)
            saves.check()

            stop, overdue = _agree(
                step,
                settings.log_every,
                interrupt.received is not None,
                time.monotonic() - last_save > 60 * settings.checkpoint_every_minutes,
            )
            due_eval = settings.eval_every and step % settings.eval_every == 0
            due_save = overdue or step % settings.checkpoint_every_steps == 0
            last = step == settings.steps
            due_preview = preview and settings.preview_every and step % settings.preview_every == 0
            if due_eval or due_save or due_preview or stop or last:
                # All lines up to a checkpoint are written before it: a resume leaves no gap.
                log.finish(*late)
                late = None
                if due_eval or last:
                    evaluate(step)
                if preview and due_preview:
                    log.preview(step, preview, state.params if state.ema is None else state.ema)
                if due_save or stop or last:
                    save(step)
                    saved_step, last_save = step, time.monotonic()
        interrupted = stop and step < settings.steps
        if interrupted:
            logger.info("stopped by %s: step %d is saved", interrupt.received, saved_step)
        skipped = int(state.guard.skipped)
        rates = log.throughput.totals()
    return TrainResult(
        steps=step,
        interrupted=interrupted,
        parameters=parameters,
        skipped_steps=skipped,
        wall_s=time.monotonic() - began,
        rates=rates,
        final=_final_values(workdir),
    )


class _Log:
    """Turns step reports into means, lines on the console and lines in the metrics file."""

    def __init__(self, config: RunConfig, objective: Objective, mesh, workdir, restored_step):
        self._config = config
        device = mesh.devices.flat[0]
        peak = chips.peak_flops(device.device_kind)
        self.throughput = metrics.Throughput(
            sum(objective.flops().values()), peak and peak * mesh.size
        )
        # One process writes for all.
        first = jax.process_index() == 0
        self._writer = metrics.MetricsWriter(workdir, restored_step) if first else None
        self._means = metrics.Means()
        self._first = True
        self._started = time.perf_counter()

    def finish(self, step: int, report: StepMetrics, wait: float) -> None:
        """Takes in a step once it is done (waits for it); writes at multiples of `log_every`."""
        values = jax.device_get(report)
        if self._first:
            # The first step compiles: it says nothing about the rate.
            self._first = False
            seconds = metrics.format_duration(time.perf_counter() - self._started)
            logger.info("first step done after %s (compilation included)", seconds)
            self.throughput.restart()
        else:
            self.throughput.add(values.work, wait)
        if values.accepted:
            self._means.add(values.pairs)
        else:
            loss, norm = values.pairs["loss"][0], values.pairs["gradient_norm"][0]
            logger.warning("step %d skipped: loss %g, gradient norm %g", step, loss, norm)
        limit = self._config.optimizer.max_skipped
        if values.guard.in_row >= limit:
            raise DivergenceError(
                f"{limit} steps in a row up to step {step} were skipped for a loss or gradient "
                "that is not finite or spikes; the last checkpoint is good: lower the learning "
                "rate, or look at the data of these steps"
            )
        settings = self._config.train
        if step % settings.log_every and step != settings.steps:
            return
        line = {f"train/{name}": value for name, value in self._means.means().items()}
        line["train/learning_rate"] = float(values.learning_rate)
        line["train/skipped_steps"] = int(values.guard.skipped)
        line |= self.throughput.close_window()
        self._means = metrics.Means()
        self._write(step, line)
        logger.info("%s", _console_line(step, settings.steps, line))

    def evaluated(self, step: int, means: dict[str, float], seconds: float) -> None:
        """Writes the results of an evaluation, which counts as no training time."""
        self.throughput.exclude(seconds)
        self._write(step, {f"eval/{name}": value for name, value in means.items()})
        logger.info("step %d  eval  %s", step, _losses(means))

    def preview(self, step: int, preview: Preview, params: Any) -> None:
        """Writes samples of the model, which counts as no training time either."""
        start = time.perf_counter()
        if self._writer:
            preview(step, params, self._writer)
        self.throughput.exclude(time.perf_counter() - start)

    def _write(self, step: int, line: dict[str, float]) -> None:
        if self._writer:
            self._writer.write(step, line)

    def close(self) -> None:
        if self._writer:
            self._writer.close()


def _console_line(step: int, steps: int, line: Mapping[str, float]) -> str:
    train = {name[6:]: value for name, value in line.items() if name.startswith("train/")}
    parts = [f"step {step}/{steps}", _losses(train), f"lr {train['learning_rate']:.2e}"]
    if "perf/step_s" in line:
        if "perf/tokens_per_s" in line:
            parts.append(f"{line['perf/tokens_per_s']:,.0f} tokens/s")
        if "perf/mfu" in line:
            parts.append(f"MFU {line['perf/mfu']:.1%}")
        parts.append(f"data wait {line['perf/data_wait']:.1%}")
        parts.append(f"ETA {metrics.format_duration((steps - step) * line['perf/step_s'])}")
    return "  ".join(parts)


def _losses(means: Mapping[str, float]) -> str:
    # Loss first, then the likelihoods of whole streams: one per codebook would fill the line.
    names = [name for name in means if name.startswith("nll") and not re.search(r"\d$", name)]
    return "  ".join(f"{name} {means[name]:.4f}" for name in ["loss", *names] if name in means)


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


def _agree(step: int, every: int, *flags: bool) -> tuple[bool, ...]:
    """Which flags are set in any process; several processes ask each other every few steps."""
    if jax.process_count() == 1:
        return flags
    if step % every:
        return (False,) * len(flags)
    return tuple(multihost_utils.process_allgather(np.array(flags)).any(axis=0).tolist())


def _make_put(objective: Objective, mesh: jax.sharding.Mesh) -> Callable[[Batch], Batch]:
    """A function that checks a batch of this process and puts its rows on the devices."""
    spec = objective.batch_spec()
    where = sharding.batch_sharding(mesh)
    processes = jax.process_count()

    def put(batch: Batch) -> Batch:
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

    return put


def _items(state: TrainState) -> dict[str, Any]:
    """The state as the items of a checkpoint; parameters apart, for those who only sample."""
    rest = {"step": state.step, "opt_state": state.opt_state, "rng": state.rng}
    items = {"params": state.params, "train": rest | {"guard": state.guard}}
    return items if state.ema is None else items | {"ema": state.ema}


def _restore(
    saves: checkpoint.Checkpoints, step: int, objective, config: RunConfig, mesh, run, loader
) -> tuple[TrainState, dict[str, Any]]:
    record = saves.read_record(step)
    current = run | {"data": loader.get_state()}
    for change in checkpoint.check_resume(record, current, saves.directory):
        logger.warning("resuming with a changed configuration: %s", change)
    items = saves.restore(step, _items(abstract_state(objective, config, mesh)))
    state = TrainState(params=items["params"], ema=items.get("ema"), **items["train"])
    return state, record["data"]


def _final_values(workdir: str | os.PathLike[str]) -> dict[str, float]:
    final: dict[str, float] = {}
    for line in metrics.read_metrics(Path(workdir) / metrics.METRICS_FILE):
        final |= {k: v for k, v in line.items() if k not in ("step", "time") and v is not None}
    return final
