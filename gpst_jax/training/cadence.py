"""What is due after a step: evaluations, preview, checkpoint, stop; the same on every process."""

import dataclasses
import time

import jax

from gpst_jax.config import EvalConfig, TrainConfig
from gpst_jax.parallel import multihost


@dataclasses.dataclass(frozen=True)
class Due:
    """What is to be done after a step."""

    evaluate: bool
    task: bool  # the evaluation of generated speech
    preview: bool
    save: bool
    stop: bool  # a signal asked for it; the state is saved first

    def __bool__(self) -> bool:
        return self.evaluate or self.task or self.preview or self.save or self.stop


class Cadence:
    """Decides what is due, from the numbers of `TrainConfig` and the time since the last save.

    Args:
        config: the `train` section of the run.
        has_preview: whether there is a preview to be made.
        task: the section `eval` of the run.
    """

    def __init__(self, config: TrainConfig, has_preview: bool, task: EvalConfig):
        self._config, self._has_preview, self._task = config, has_preview, task
        self.saved()

    def saved(self) -> None:
        """Restarts the time of `checkpoint_every_minutes`."""
        self._last_save = time.monotonic()

    def due(self, step: int, interrupted: bool) -> Due:
        """What is due after `step` finished steps.

        Args:
            step: from 1.
            interrupted: whether this process was asked to stop.
        """
        config = self._config
        minutes = (time.monotonic() - self._last_save) / 60
        stop, overdue = self._agree(step, interrupted, minutes > config.checkpoint_every_minutes)
        last = step == config.steps
        evaluate = last or _every(config.eval_every, step)
        of_task = last or _every(self._task.every, step) if self._task.every else evaluate
        return Due(
            evaluate=evaluate,
            task=bool(self._task.task) and of_task,
            preview=self._has_preview and _every(config.preview_every, step),
            save=last or stop or overdue or step % config.checkpoint_every_steps == 0,
            stop=stop,
        )

    def _agree(self, step: int, stop: bool, overdue: bool) -> tuple[bool, bool]:
        """What any process asks for, all do: collectives must stay in step."""
        if jax.process_count() == 1 or step % self._config.log_every == 0:
            stop, overdue = multihost.any_process(stop, overdue)
            return stop, overdue
        return False, False


def _every(period: int, step: int) -> bool:
    return period > 0 and step % period == 0
