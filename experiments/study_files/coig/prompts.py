"""How long must the prompt of flow matching be, in voices of the training set and in others?"""

from experiments.studies.scales import ITEMS, SCORED
from gpst_jax.evaluation.transcripts.recipes import DIGITS_RECIPE
from gpst_jax.studies import calls
from gpst_jax.studies.definition import Cell, Comparison, Study
from gpst_jax.studies.figures import RecipeFigure
from gpst_jax.studies.knee import Knee

_SECONDS = (0.5, 1.0, 2.0, 3.0, 5.0)
_SEEN, _UNSEEN = "voice_conversion", "voice_conversion_unseen"


def get_study() -> Study:
    """The study; `--run` is the flow matching of `make demo-coig`, `--tokens` are its tokens."""
    cells = tuple(_cell(seconds) for seconds in _SECONDS)
    similar = _similarity(_SEEN, "similarity to the prompt's voice")
    return Study(
        name="coig/prompts",
        question="How long must a prompt of flow matching be to carry a voice?",
        cells=cells,
        figures=(
            similar,
            _words(_SEEN, "word errors, %"),
            _similarity(_UNSEEN, "similarity, voices not trained on"),
            _words(_UNSEEN, "word errors, voices not trained on, %"),
        ),
        comparisons=(Comparison(cells[-1].name, tuple(cell.name for cell in cells[:-1])),),
        analyses=(Knee(similar),),
        axis="seconds of prompt",
        notes=(
            "Voice conversion of held-out digit strings, 4 steps of the midpoint method, noise "
            "times 0.4, into another voice of the training set, and into voices left out of it.",
            "Seeds are those of sampling and of the choice of prompts: the model is one.",
        ),
    )


def _cell(seconds: float) -> Cell:
    made = calls.generate(
        *(f"--mode={_SEEN}", f"--items={ITEMS}", f"--unseen_items={ITEMS // 2}"),
        *("--flow_steps=4", "--flow_temperature=0.4", f"--prompt_seconds={seconds:g}"),
        run="{run}",
    )
    return Cell(f"{seconds:g}s", calls=(made, calls.evaluate_samples(*SCORED)), place=seconds)


def _words(condition: str, label: str) -> RecipeFigure:
    return RecipeFigure(f"words_{condition}", label, DIGITS_RECIPE, condition, 100.0, 1, "lower")


def _similarity(condition: str, label: str) -> RecipeFigure:
    return RecipeFigure(f"similarity_{condition}", label, "sim-o/resemblyzer-smoke", condition)
