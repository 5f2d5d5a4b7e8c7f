"""Scales of a study: what its cells train, on which tokens, and how they are scored.

`DEMO` is near that of `make demo`: a cell trains `gpst_demo` with uniform weights of the loss and
other overrides on the corpus of docs/studies.md, and scores 60 held-out digit strings of its ten
voices. `POD` is the published size on a slice of a pod; no cell of it has been
run, and the pages of `study_files/pods` say what they would cost. Its dataset is one of
`gpst_190m`'s layout (docs/tokenizers.md), with transcripts of the held-out recordings.
"""

import dataclasses

from data_pipeline.tokens import TokenLayout
from experiments.common import load_config
from experiments.configs import gpst_190m
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


@dataclasses.dataclass(frozen=True)
class Scale:
    """One scale.

    Attributes:
        folder: of its studies' names; empty for the demo's.
        config: file of the configuration that cells override.
        layout: of its dataset.
        steps: of that configuration; their training FLOPs are the budget of every cell.
        scored: flags of `experiments.evaluate` for a trained cell, such as `--items=60`.
        figures: what a trained cell is scored by.
        scored_whole: flags that generate every mode, so that `ENDS` can be read as well.
        base: overrides of every cell that has none of the same field.
        notes: what the numbers are about, for every page.
    """

    folder: str
    config: str
    layout: TokenLayout
    steps: int
    scored: tuple[str, ...]
    figures: tuple[Figure, ...]
    scored_whole: tuple[str, ...]
    base: tuple[str, ...]
    notes: tuple[str, ...]

    def name(self, study: str) -> str:
        """The name of a study at this scale."""
        return f"{self.folder}/{study}" if self.folder else study

    def run(self, *overrides: str) -> RunConfig:
        """The configuration with overrides."""
        return load_config(self.config).override(self._with_base(overrides))

    def budget(self, share: float = 1.0) -> float:
        """Training FLOPs of a share of the steps."""
        return share * self.steps * (cost.flops_per_step(self.run(), self.layout) or 0.0)

    def equal(
        self, *overrides: str, share: float = 1.0, layout: TokenLayout | None = None
    ) -> tuple[str, ...]:
        """Overrides with the steps that the budget allows the model that they make."""
        made = self.run(*overrides)
        steps = cost.steps_for(self.budget(share), made, layout or self.layout)
        return (*overrides, f"train.steps={steps}")

    def trained(
        self,
        name: str,
        *overrides: str,
        config: str = "",
        place: float | None = None,
        prepare: tuple[Call, ...] = (),
        tokens: str = "{tokens}",
        layout: TokenLayout | None = None,
        scored: tuple[str, ...] | None = None,
    ) -> Cell:
        """A cell that trains a configuration and scores held-out recordings.

        Args:
            name: of the cell.
            *overrides: `section.field=value`.
            config: file of the configuration, where it is not that of the scale.
            place: on the axis of the plot.
            prepare: programs before, see `Cell`.
            tokens: its dataset.
            layout: of that dataset, where it is not that of the scale.
            scored: flags of `experiments.evaluate`, where they are not those of the scale.
        """
        flags = self.scored if scored is None else scored
        evaluated = calls.evaluate_run(*flags, tokens=tokens)
        made = config or self.config
        fields = self._with_base(overrides)
        return Cell(name, made, fields, (evaluated,), prepare, tokens, place, layout)

    def _with_base(self, overrides: tuple[str, ...]) -> tuple[str, ...]:
        given = {text.partition("=")[0] for text in overrides}
        kept = (text for text in self.base if text.partition("=")[0] not in given)
        return (*kept, *overrides)


# Half of the demo's steps, which take some minutes: a study has many cells.
DEMO = Scale(
    folder="",
    config="experiments/configs/gpst_demo.py",
    layout=TokenLayout(
        num_units=40, num_codebooks=4, codebook_size=256, unit_rate=50.0, frame_rate=50.0
    ),
    steps=250,
    base=("model.semantic_weight=1", "model.codebook_weights=uniform"),
    scored=("--task=seen-voices", f"--items={ITEMS}", *SCORED),
    figures=(PARAMETERS, BITS, WORDS, TRANSFER_WORDS, TRANSFER),
    scored_whole=(f"--items={ITEMS}", *SCORED),
    notes=(
        "Half of the steps of `make demo`, uniform weights: the words are not those of its table.",
    ),
)

_WORDS = "wer/whisper-large-v3-english"
_ORIGINAL, _SIMILARITY = "sim-o/wavlm-base-plus-sv", "sim-r/wavlm-base-plus-sv"
_POD_WORDS = words("semantic_to_acoustic", "word errors, units to speech, %", _WORDS)
_POD_TRANSFER_WORDS = words("speaker_transfer", "word errors, speaker transfer, %", _WORDS)
_POD_TRANSFER = similarity("speaker_transfer", "similarity to the prompt's voice", _SIMILARITY)

_POD_SCORED = ("--items=200", f"--wer={_WORDS}", "--wer_items=200", f"--similarity={_ORIGINAL}")

POD = Scale(
    folder="pods",
    config="experiments/configs/gpst_190m.py",
    layout=gpst_190m.get_layout(),
    steps=50_000,
    base=(),
    scored=("--task=seen-voices", *_POD_SCORED),
    figures=(PARAMETERS, BITS, _POD_WORDS, _POD_TRANSFER_WORDS, _POD_TRANSFER),
    scored_whole=_POD_SCORED,
    notes=(
        "50,000 of the published million updates; 3.2 million crops of 10 s. What a step of "
        "`gpst_190m` needs on slices, compile-only: docs/pods.md. 1e18 training FLOPs are 3.5 "
        "chip-hours of v5e or 0.76 of v6e, if 40 % of the peak is reached.",
    ),
)
