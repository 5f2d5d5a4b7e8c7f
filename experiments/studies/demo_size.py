"""Shared by study files at the size of `make demo`: its dataset's layout, figures and cells.

A cell trains `gpst_demo` with overrides and scores 60 held-out digit strings of its ten voices.
"""

from data_pipeline.tokens import TokenLayout
from experiments.common import load_config
from gpst_jax.config import RunConfig
from gpst_jax.evaluation.transcripts.recipes import DIGITS_RECIPE
from gpst_jax.studies import calls, cost
from gpst_jax.studies.definition import Call, Cell
from gpst_jax.studies.figures import (
    EndsFigure,
    Figure,
    LikelihoodFigure,
    RecipeFigure,
    StepTimeFigure,
    TrainingFigure,
)

CONFIG = "experiments/configs/gpst_demo.py"
LAYOUT = TokenLayout(
    num_units=40, num_codebooks=4, codebook_size=256, unit_rate=50.0, frame_rate=50.0
)
SIMILARITY = "sim-r/resemblyzer-smoke"
# Digit strings are recognised by a grammar; opinion scores of synthetic voices rank nothing.
SCORED = (f"--wer={DIGITS_RECIPE}", "--mos_items=0")
ITEMS = 60

PARAMETERS = TrainingFigure("parameters", "parameters, millions", "parameters", 1e-6, 2)
STEP_SECONDS = StepTimeFigure()
BITS = LikelihoodFigure()
UNIT_BITS = LikelihoodFigure("bits_units", "bits per second, units", "semantic")
CODE_BITS = LikelihoodFigure("bits_codes", "bits per second, codes", "acoustic")
ENDS = EndsFigure()


def words(mode: str, label: str) -> Figure:
    """Word errors of a mode in per cent, by the grammar of digits."""
    return RecipeFigure(f"words_{mode}", label, DIGITS_RECIPE, mode, 100.0, 1, "lower")


def similarity(mode: str, label: str) -> Figure:
    """Similarity to another recording of the prompt's voice, through the codec."""
    return RecipeFigure(f"similarity_{mode}", label, SIMILARITY, mode, 1.0, 3, "higher")


WORDS = words("semantic_to_acoustic", "word errors, units to speech, %")
TRANSFER_WORDS = words("speaker_transfer", "word errors, speaker transfer, %")
TRANSFER = similarity("speaker_transfer", "similarity to the prompt's voice")
# What a trained cell is scored by.
FIGURES: tuple[Figure, ...] = (PARAMETERS, BITS, WORDS, TRANSFER_WORDS, TRANSFER, ENDS)


def trained(
    name: str,
    *overrides: str,
    config: str = CONFIG,
    place: float | None = None,
    prepare: tuple[Call, ...] = (),
    tokens: str = "{tokens}",
    layout: TokenLayout | None = None,
    items: int = ITEMS,
) -> Cell:
    """A cell that trains a configuration and scores held-out recordings.

    Args:
        name: of the cell.
        *overrides: `section.field=value`.
        config: file of the configuration.
        place: on the axis of the plot.
        prepare: programs before, see `Cell`.
        tokens: its dataset.
        layout: of that dataset, where it is not the demo's.
        items: held-out recordings that are scored.
    """
    scored = calls.evaluate_run(f"--items={items}", *SCORED, tokens=tokens)
    return Cell(name, config, overrides, (scored,), prepare, tokens, place, layout)


def demo(*overrides: str) -> RunConfig:
    """The demo's configuration with overrides."""
    return load_config(CONFIG).override(overrides)


def budget(steps: int) -> float:
    """Training FLOPs of so many steps of the demo."""
    return steps * (cost.flops_per_step(demo(), LAYOUT) or 0.0)


def at_budget(flops: float, *overrides: str, layout: TokenLayout = LAYOUT) -> tuple[str, ...]:
    """Overrides with the steps that training FLOPs allow the model that they make."""
    steps = cost.steps_for(flops, demo(*overrides), layout)
    return (*overrides, f"train.steps={steps}")
