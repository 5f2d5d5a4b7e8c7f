"""Shared by study files at the size of `make demo`: its scale and its figures.

A cell trains `gpst_demo` with overrides and scores 60 held-out digit strings of its ten voices.
"""

from data_pipeline.tokens import TokenLayout
from experiments.studies.scale import Scale
from gpst_jax.evaluation.transcripts.recipes import DIGITS_RECIPE
from gpst_jax.studies.figures import (
    EndsFigure,
    Figure,
    LikelihoodFigure,
    RecipeFigure,
    StepTimeFigure,
    TrainingFigure,
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


def words(mode: str, label: str, recipe: str = DIGITS_RECIPE) -> Figure:
    """Word errors of a mode in per cent, by a recipe; by default the grammar of digits."""
    return RecipeFigure(f"words_{mode}", label, recipe, mode, 100.0, 1, "lower")


def similarity(mode: str, label: str, recipe: str = SIMILARITY) -> Figure:
    """Similarity to another recording of the prompt's voice, through the codec."""
    return RecipeFigure(f"similarity_{mode}", label, recipe, mode, 1.0, 3, "higher")


WORDS = words("semantic_to_acoustic", "word errors, units to speech, %")
TRANSFER_WORDS = words("speaker_transfer", "word errors, speaker transfer, %")
TRANSFER = similarity("speaker_transfer", "similarity to the prompt's voice")

# A quarter of the demo's steps, which take some minutes: a study has many cells.
DEMO = Scale(
    folder="",
    config="experiments/configs/gpst_demo.py",
    layout=TokenLayout(
        num_units=40, num_codebooks=4, codebook_size=256, unit_rate=50.0, frame_rate=50.0
    ),
    steps=250,
    scored=(f"--items={ITEMS}", *SCORED),
    figures=(PARAMETERS, BITS, WORDS, TRANSFER_WORDS, TRANSFER, ENDS),
    notes=("A quarter of the steps of `make demo`: the words are not yet those of its table.",),
)
