"""The tasks by name."""

from data_pipeline.runtime.errors import UserError
from gpst_jax.tasks import held_out, librispeech, multilingual, seed_tts, vctk
from gpst_jax.tasks.base import ListedTask
from gpst_jax.tasks.held_out import HeldOutTask

Task = ListedTask | HeldOutTask
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        librispeech.GPST,
        librispeech.CROSS_SENTENCE,
        seed_tts.SEED_TTS_EN,
        vctk.VCTK_VC,
        multilingual.MULTILINGUAL,
        held_out.SEEN_VOICES,
        held_out.HI_RES,
        held_out.DIALOGUE,
        held_out.DEMO,
    )
}


def get_task(name: str | None) -> Task:
    """The task of that name; without one, that on the run's held-out recordings.

    Raises:
        UserError: there is none of that name.
    """
    if name is None:
        return held_out.HELD_OUT
    if name not in TASKS:
        raise UserError(f"--task={name}: unknown; choose from {', '.join(TASKS)}")
    return TASKS[name]
