"""The console: one line for each log step and evaluation, with the rate and the time left."""

import logging
import re
from collections.abc import Mapping
from typing import Any

from data_pipeline.runtime.progress import format_duration
from gpst_jax.trackers.base import NoMedia, Workdir

# A logger of its own: the libraries around log through absl's at the same level.
logger = logging.getLogger(__name__)


class ConsoleTracker(NoMedia):
    """Logs losses, learning rate, throughput, MFU and ETA."""

    def __init__(self, workdir: Workdir):
        del workdir
        self._steps = 0

    def start(self, run_id: str, config: Mapping[str, Any], step: int) -> None:
        """See `Tracker`."""
        self._steps = config["train"]["steps"]

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs training and evaluation; other sections do not fill the console."""
        if "train/learning_rate" in values:
            logger.info("%s", self._line(step, values))
        evaluation = _section(values, "eval/")
        if evaluation:
            logger.info("step %d  eval  %s", step, _losses(evaluation))
        skipped = _section(values, "skip/")
        if skipped:
            logger.warning(
                "step %d (batch %d) skipped: loss %g, norm %g",
                *(step, skipped["batch"], skipped["loss"], skipped["gradient_norm"]),
            )

    def _line(self, step: int, values: Mapping[str, float]) -> str:
        train = _section(values, "train/")
        parts = [f"step {step}/{self._steps}", _losses(train), f"lr {train['learning_rate']:.2e}"]
        if "perf/step_s" in values:
            if "perf/tokens_per_s" in values:
                parts.append(f"{values['perf/tokens_per_s']:,.0f} tokens/s")
            if "perf/mfu" in values:
                parts.append(f"MFU {values['perf/mfu']:.1%}")
            parts.append(f"data wait {values['perf/data_wait']:.1%}")
            parts.append(f"ETA {format_duration((self._steps - step) * values['perf/step_s'])}")
        return "  ".join(parts)

    def close(self) -> None:
        """Nothing to close."""


def _section(values: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if name.startswith(prefix)
    }


def _losses(means: Mapping[str, float]) -> str:
    # Loss first, then the NLL of each stream: one per codebook would fill the line.
    names = [name for name in means if name.startswith("nll") and not re.search(r"\d$", name)]
    return "  ".join(f"{name} {means[name]:.4f}" for name in ["loss", *names] if name in means)
