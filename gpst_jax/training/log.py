"""Training log: means over steps, throughput and MFU to the trackers, and divergence."""

import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

from data_pipeline.runtime.progress import format_duration
from gpst_jax.checkpoints.storage import storing
from gpst_jax.config import RunConfig
from gpst_jax.objectives import Objective
from gpst_jax.parallel import chips
from gpst_jax.trackers import Tracker, check_names, make_trackers
from gpst_jax.trackers.base import TrackerGroup, run_id
from gpst_jax.trackers.console import ConsoleTracker
from gpst_jax.training import metrics
from gpst_jax.training.preview import Preview
from gpst_jax.training.step import StepMetrics

logger = logging.getLogger(__name__)

# Of the record of a run, what trackers show beside its configuration.
_SHOWN = ("family", "dataset_fingerprint", "code_version", "jax_version")


class DivergenceError(Exception):
    """Too many steps in a row had a loss or gradient that could not be used."""


class TrainLog:
    """Turns step reports into means and writes them to the trackers.

    Args:
        config: the run.
        objective: its FLOPs give the MFU.
        mesh: the devices.
        workdir: directory of the run, where process 0 keeps the id of the run.
        restored_step: what trackers hold beyond it is dropped.
        trackers: of this process; None: `process_trackers`.
        run: `record.describe_run` of the run.
    """

    def __init__(
        self,
        config: RunConfig,
        objective: Objective,
        mesh: jax.sharding.Mesh,
        workdir: str | os.PathLike[str],
        restored_step: int,
        trackers: Sequence[Tracker] | None = None,
        run: Mapping[str, Any] = MappingProxyType({}),
    ):
        self._config, self._workdir = config, Path(workdir)
        peak = chips.peak_flops(mesh.devices.flat[0].device_kind)
        self.throughput = metrics.Throughput(
            sum(objective.flops().values()), peak and peak * mesh.size
        )
        self._writes_files = jax.process_index() == 0
        if trackers is None:
            trackers = process_trackers(workdir)
        self._tracker = TrackerGroup(trackers)
        with storing(self._workdir):
            name = config.name
            self._workdir.mkdir(parents=True, exist_ok=True)
            identity = run_id(workdir, name) if self._writes_files else name
            shapes = jax.tree.leaves(jax.eval_shape(objective.init, jax.random.key(0)))
            about = {"parameters": sum(leaf.size for leaf in shapes)}
            about |= {name: run[name] for name in _SHOWN if name in run}
            self._tracker.start(identity, config.to_dict() | about, restored_step)
        self._finished = restored_step
        self._pending: tuple[int, StepMetrics, float, int] | None = None
        self._means = metrics.Means()
        self._skipped: list[int] = []  # batches of the latest consecutive skipped steps
        self._save_stall = 0.0  # seconds for which saves blocked the steps of this window
        self._first = True
        self._started = time.perf_counter()

    def step(self, step: int, report: StepMetrics, data_wait: float, batch: int) -> None:
        """Takes the metrics of a dispatched step, and processes those of the step before it.

        Reading the previous step's metrics while this one runs never idles the devices.

        Args:
            step: its number, from 1.
            report: what the step returned.
            data_wait: seconds it waited for its batch.
            batch: the number of that batch in the plan, from 1.

        Raises:
            DivergenceError: `optimizer.max_skipped` steps in a row were skipped.
            StorageError: the metrics cannot be written.
        """
        self.flush()
        self._pending = (step, report, data_wait, batch)

    def flush(self) -> None:
        """Waits for the latest step and processes its metrics; raises as `step`."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._finish(*pending)

    def _finish(self, step: int, report: StepMetrics, data_wait: float, batch: int) -> None:
        """Adds a step to the means; writes them at multiples of `log_every`."""
        values = jax.device_get(report)
        self._finished = step
        if self._first:
            # The first step compiles: it says nothing about the rate.
            self._first = False
            seconds = format_duration(time.perf_counter() - self._started)
            logger.info("first step done after %s (compilation included)", seconds)
            self.throughput.restart()
        else:
            self.throughput.add(values.work, data_wait)
        if values.accepted:
            self._means.add(values.pairs)
            self._skipped = []
        else:
            self._skip(step, batch, values)
        train_config = self._config.train
        if step % train_config.log_every and step != train_config.steps:
            return
        line = {f"train/{name}": value for name, value in self._means.means().items()}
        line["train/learning_rate"] = float(values.learning_rate)
        line["train/skipped_steps"] = int(values.guard.skipped)
        line |= self.throughput.close_window()
        if self._save_stall:
            line["perf/save_stall_s"], self._save_stall = self._save_stall, 0.0
        self._means = metrics.Means()
        self._write(step, line)

    def _skip(self, step: int, batch: int, values: StepMetrics) -> None:
        loss, norm = (float(values.pairs[name][0]) for name in ("loss", "gradient_norm"))
        self._write(step, {"skip/batch": batch, "skip/loss": loss, "skip/gradient_norm": norm})
        self._skipped.append(batch)
        limit = self._config.optimizer.max_skipped
        if values.guard.in_row >= limit:
            first, last = self._skipped[-limit:][0], self._skipped[-1]
            raise DivergenceError(
                f"{limit} steps in a row up to step {step} were skipped for a loss or gradient "
                f"that is not finite or spikes; they read the batches {first} to {last}. The last "
                f"checkpoint is good: go on past this data with --skip_steps={first}:{last}, or "
                "lower the learning rate"
            )

    def saved(self, seconds: float) -> None:
        """Counts the time for which a save blocked the steps; the rest of it is asynchronous.

        All lines of the steps before the save are written.
        """
        self._save_stall += seconds
        with storing(self._workdir):
            self._tracker.saved(self._finished)

    def evaluated(self, step: int, means: dict[str, float], seconds: float) -> None:
        """Writes the results of an evaluation, which does not count as training time."""
        self.throughput.exclude(seconds)
        self._write(step, {f"eval/{name}": value for name, value in means.items()})
        if step == self._config.train.steps:
            rows = [[name, value] for name, value in means.items()]
            with storing(self._workdir):
                self._tracker.write_table(step, "evaluation", ["measure", "mean"], rows)

    def preview(self, step: int, preview: Preview, params: Any) -> dict[str, float]:
        """Writes samples of the model, which does not count as training time either.

        Returns what `preview` does: a `TaskEvaluation` the numbers of the samples.
        """
        start = time.perf_counter()
        with storing(self._workdir):
            values = preview(step, params, self._tracker if self._writes_files else None)
        self.throughput.exclude(time.perf_counter() - start)
        return values or {}

    def _write(self, step: int, line: dict[str, float]) -> None:
        with storing(self._workdir):
            self._tracker.write(step, line)

    def close(self) -> None:
        """Closes the trackers."""
        with storing(self._workdir):
            self._tracker.close()


def process_trackers(
    workdir: str | os.PathLike[str], names: Iterable[str] = (), project: str | None = None
) -> list[Tracker]:
    """The trackers of this process: `make_trackers` in process 0, the console in all others.

    Raises:
        UserError: there is no tracker of such a name; in every process.
    """
    names = list(names)
    check_names(names)
    if jax.process_index() == 0:
        return make_trackers(workdir, names, project)
    return [ConsoleTracker(workdir)]
