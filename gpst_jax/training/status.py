"""Status of a run, read from its workdir alone while it trains, or after.

Everything comes from `metrics.jsonl`, the checkpoints, and the event files of TensorBoard, of which
process 0 writes one at each start.
"""

import dataclasses
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline.runtime.buckets import BucketError, access, location
from data_pipeline.runtime.progress import format_duration
from gpst_jax.checkpoints.manager import CHECKPOINT_DIRECTORY, Checkpoints
from gpst_jax.checkpoints.record import CheckpointError
from gpst_jax.trackers.jsonl import METRICS_FILE, read_metrics
from gpst_jax.training.continuation import describe_history
from gpst_jax.training.curves import prediction_rates


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """What `read_status` finds; None where it is not known yet.

    Attributes:
        step: of the last line of the metrics.
        steps: where the run ends, from its newest checkpoint.
        age_s: seconds since that line.
        loss: training loss.
        step_s: seconds for a step.
        mfu: model FLOPs utilisation; None also where the chip is not in the table.
        goodput: share of the time since the last start in which steps ran.
        goodput_all: the same since the first line, stops between starts included. What was trained
            twice counts once.
        checkpoint_step: newest complete checkpoint.
        checkpoint_age_s: seconds since it was completed.
        restarts: starts of the training beyond the first.
        skipped_steps: skipped for a loss or gradient that is not finite or spikes.
        history: the runs that it continues, see `continuation.history_with`.
        rates: tokens predicted per second of audio, see `curves.prediction_rates`.
    """

    step: int | None
    steps: int | None
    age_s: float | None
    loss: float | None
    step_s: float | None
    mfu: float | None
    goodput: float | None
    goodput_all: float | None
    checkpoint_step: int | None
    checkpoint_age_s: float | None
    restarts: int
    skipped_steps: int
    history: list[dict[str, Any]]
    rates: dict[str, float]


def read_status(workdir: str | Path, now: float | None = None) -> RunStatus:
    """Reads the status of the run in `workdir`; writes nothing.

    Args:
        workdir: of the run, a directory or gs://BUCKET/NAME; may be empty.
        now: seconds since the epoch; default: the clock.

    Raises:
        ValueError: `metrics.jsonl` is damaged; the message names the line.
    """
    folder = location(workdir)
    now = time.time() if now is None else now
    lines = read_metrics(folder / METRICS_FILE)
    trained = [line for line in lines if "train/learning_rate" in line]
    last = trained[-1] if trained else {}
    step, record, age = _newest_checkpoint(folder, now)
    return RunStatus(
        step=last.get("step"),
        steps=record["config"]["train"]["steps"] if record else None,
        age_s=now - last["time"] if last else None,
        loss=last.get("train/loss"),
        step_s=last.get("perf/step_s"),
        mfu=last.get("perf/mfu"),
        goodput=last.get("perf/goodput"),
        goodput_all=_goodput(trained),
        checkpoint_step=step,
        checkpoint_age_s=age,
        restarts=max(_starts(folder) - 1, 0),
        skipped_steps=int(last.get("train/skipped_steps", 0)),
        history=record.get("history", []),
        rates=prediction_rates(record),
    )


def _starts(workdir: Path) -> int:
    """How often the training was started: each start has made a file of TensorBoard's events."""
    with access(workdir):
        return len(list(workdir.glob("tensorboard/events.*")))


def _goodput(lines: Sequence[dict[str, Any]]) -> float | None:
    """Time of all steps after the first line over the time since it."""
    if len(lines) < 2:
        return None
    busy = 0.0
    for before, line in itertools.pairwise(lines):
        # The first line of a start has no rate where its only step compiled.
        busy += (line["step"] - before["step"]) * (line.get("perf/step_s") or 0.0)
    return min(busy / max(lines[-1]["time"] - lines[0]["time"], 1e-9), 1.0)


def _newest_checkpoint(
    workdir: Path, now: float
) -> tuple[int | None, dict[str, Any], float | None]:
    """Its step, its record (empty: there is none), and its age in seconds."""
    with access(workdir):
        if not (workdir / CHECKPOINT_DIRECTORY).is_dir():
            return None, {}, None
    checkpoints = Checkpoints(workdir, writable=False)
    try:
        if not checkpoints.steps:
            return None, {}, None
        step = checkpoints.steps[-1]
        age = now - checkpoints.saved_at(step)
        return step, checkpoints.read_record(step), age
    except BucketError:
        raise
    except (CheckpointError, OSError):  # a live run may have removed it meanwhile
        return None, {}, None
    finally:
        checkpoints.close()


def format_status(status: RunStatus) -> str:
    """The status for a terminal."""

    def ago(seconds: float | None) -> str:
        return "" if seconds is None else f", {format_duration(max(seconds, 0))} ago"

    def share(value: float | None) -> str:
        return "not known" if value is None else f"{value:.1%}"

    if status.step is None:
        first = "no step has ended yet"
    else:
        first = f"step {status.step}" + (f" of {status.steps}" if status.steps else "")
        first += ago(status.age_s)
        if status.step_s and status.steps and status.steps > status.step:
            left = (status.steps - status.step) * status.step_s
            first += f"; {status.step_s:.3g} s a step, {format_duration(left)} to go"
    saved = "none yet"
    if status.checkpoint_step is not None:
        saved = f"step {status.checkpoint_step}{ago(status.checkpoint_age_s)}"
    loss = "not known" if status.loss is None else f"{status.loss:.4f}"
    return "\n".join(
        [
            f"progress         {first}",
            f"loss             {loss}; {status.skipped_steps} steps skipped",
            f"MFU              {share(status.mfu)}",
            f"goodput          {share(status.goodput)} since the last start, "
            f"{share(status.goodput_all)} since the first line",
            f"last checkpoint  {saved}",
            f"restarts         {status.restarts}",
            *(f"history          {line}" for line in describe_history(status.history)),
        ]
    )
