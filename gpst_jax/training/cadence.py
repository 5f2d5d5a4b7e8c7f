"""What is due after a step: evaluation, preview, checkpoint, stop; the same on every process."""

import dataclasses
import time

import jax

from gpst_jax.config import TrainConfig
from gpst_jax.parallel import multihost


@dataclasses.dataclass(frozen=True)
class Due:
    """What is to be done after a step."""

    evaluate: bool
    preview: bool
    save: bool
    stop: bool  # a signal asked for it; the state is saved first

    def __bool__(self) -> bool:
        return self.evaluate or self.preview or self.save or self.stop


class Cadence:
    """Decides what is due, from the numbers of `TrainConfig` and the time since the last save.

    Args:
        config: the `train` section of the run.
        has_preview: whether there is a preview to be made.
    """

    def __init__(self, config: TrainConfig, has_preview: bool):
        self._config, self._has_preview = config, has_preview
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
        return Due(
            evaluate=last or _every(config.eval_every, step),
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
