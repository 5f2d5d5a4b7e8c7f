"""What a run says while it trains: means, console lines, metrics, and the end when it diverges."""

import logging
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from gpst_jax.checkpoints.storage import storing
from gpst_jax.config import RunConfig
from gpst_jax.objectives import Objective
from gpst_jax.parallel import chips
from gpst_jax.training import metrics
from gpst_jax.training.preview import Preview
from gpst_jax.training.step import StepMetrics

# A logger of its own: the libraries around log through absl's at the same level.
logger = logging.getLogger(__name__)


class DivergenceError(Exception):
    """Too many steps in a row had a gradient that could not be used."""


class TrainLog:
    """Turns step reports into means, lines on the console and lines in the metrics file.

    Args:
        config: the run.
        objective: its FLOPs give the MFU.
        mesh: the devices.
        workdir: where process 0 writes the metrics.
        restored_step: lines beyond it are dropped.
    """

    def __init__(
        self,
        config: RunConfig,
        objective: Objective,
        mesh: jax.sharding.Mesh,
        workdir: str | os.PathLike[str],
        restored_step: int,
    ):
        self._config = config
        self._workdir = Path(workdir)
        device = mesh.devices.flat[0]
        peak = chips.peak_flops(device.device_kind)
        self.throughput = metrics.Throughput(
            sum(objective.flops().values()), peak and peak * mesh.size
        )
        # One process writes for all.
        first = jax.process_index() == 0
        with storing(self._workdir):
            self._writer = metrics.MetricsWriter(workdir, restored_step) if first else None
        self._means = metrics.Means()
        self._skipped: list[int] = []  # batches of the last skipped steps in a row
        self._stall = 0.0  # seconds that saves have held up the steps of this window
        self._first = True
        self._started = time.perf_counter()

    def finish(self, step: int, report: StepMetrics, wait: float, batch: int) -> None:
        """Takes in a step once it is done (waits for it); writes at multiples of `log_every`.

        Args:
            step: its number, from 1.
            report: what the step returned.
            wait: seconds it waited for its batch.
            batch: the number of that batch in the plan, from 1.

        Raises:
            DivergenceError: `optimizer.max_skipped` steps in a row were skipped.
            StorageError: the metrics cannot be written.
        """
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
            self._skipped = []
        else:
            self._skip(step, batch, values)
        settings = self._config.train
        if step % settings.log_every and step != settings.steps:
            return
        line = {f"train/{name}": value for name, value in self._means.means().items()}
        line["train/learning_rate"] = float(values.learning_rate)
        line["train/skipped_steps"] = int(values.guard.skipped)
        line |= self.throughput.close_window()
        if self._stall:
            line["perf/save_stall_s"], self._stall = self._stall, 0.0
        self._means = metrics.Means()
        self._write(step, line)
        logger.info("%s", _console_line(step, settings.steps, line))

    def _skip(self, step: int, batch: int, values: StepMetrics) -> None:
        loss, norm = (float(values.pairs[name][0]) for name in ("loss", "gradient_norm"))
        logger.warning("step %d (batch %d) skipped: loss %g, norm %g", step, batch, loss, norm)
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
        """Counts the time for which a save held up the steps; the rest runs beside them."""
        self._stall += seconds

    def evaluated(self, step: int, means: dict[str, float], seconds: float) -> None:
        """Writes the results of an evaluation, which counts as no training time."""
        self.throughput.exclude(seconds)
        self._write(step, {f"eval/{name}": value for name, value in means.items()})
        logger.info("step %d  eval  %s", step, _losses(means))

    def preview(self, step: int, preview: Preview, params: Any) -> None:
        """Writes samples of the model, which counts as no training time either."""
        start = time.perf_counter()
        preview(step, params, self._writer)
        self.throughput.exclude(time.perf_counter() - start)

    def _write(self, step: int, line: dict[str, float]) -> None:
        if self._writer:
            with storing(self._workdir):
                self._writer.write(step, line)

    def final_values(self) -> dict[str, float]:
        """The last value of each metric written, by whatever call of the run."""
        final: dict[str, float] = {}
        for line in metrics.read_metrics(self._workdir / metrics.METRICS_FILE):
            final |= {k: v for k, v in line.items() if k not in ("step", "time") and v is not None}
        return final

    def close(self) -> None:
        """Closes the files."""
        if self._writer:
            with storing(self._workdir):
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
