"""How much of a voice must a model hear? One trained model, prompts of 0.5 to 6 seconds."""

from experiments.studies.scales import ITEMS, SCORED, TRANSFER, TRANSFER_WORDS
from gpst_jax.studies import calls
from gpst_jax.studies.definition import Cell, Comparison, Study
from gpst_jax.studies.knee import Knee

_SECONDS = (0.5, 1.0, 2.0, 3.0, 6.0)


def get_study() -> Study:
    """The study; `--run` is scored."""
    cells = tuple(_cell(seconds) for seconds in _SECONDS)
    longest = cells[-1].name
    return Study(
        name="prompt_length",
        question="How long must a prompt be to carry a voice?",
        cells=cells,
        figures=(TRANSFER, TRANSFER_WORDS),
        seeds=(0, 1, 2),
        comparisons=(Comparison(longest, tuple(cell.name for cell in cells[:-1])),),
        analyses=(Knee(TRANSFER),),
        axis="seconds of prompt",
        notes=(
            "Speaker transfer of held-out digit strings into another voice of the training set.",
            "A shorter prompt is the beginning of a longer one; similarity is to one other "
            "recording of the prompt's voice, the same for every length.",
            "Seeds are those of sampling and of the choice of prompts: the model is one.",
        ),
    )


def _cell(seconds: float) -> Cell:
    name = f"{seconds:g}s"
    made = calls.generate(
        "--mode=speaker_transfer",
        f"--items={ITEMS}",
        "--unseen_items=0",
        f"--prompt_seconds={seconds:g}",
        run="{run}",
    )
    scored = calls.evaluate_samples(*SCORED)
    return Cell(name, calls=(made, scored), place=seconds)
