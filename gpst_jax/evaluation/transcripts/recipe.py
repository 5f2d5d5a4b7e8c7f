"""The recipe of a recogniser: which samples it scores, and how both texts are normalised."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpst_jax.evaluation.metrics.recipe import Measurement, Recipe
from gpst_jax.evaluation.transcripts.alignment import CORPUS
from gpst_jax.samples.manifest import Sample
from gpst_jax.samples.texts import ENGLISH, LATIN, other_language


@dataclass(frozen=True)
class TranscriptRecipe(Recipe):
    """A recogniser with the text normalisation applied to reference and hypothesis."""

    text_kinds: tuple[str, ...]  # of the transcripts it may score
    normalise: Callable[[str], str]
    languages: tuple[str, ...] = ENGLISH  # that the recogniser and its normalisation are for
    script: str = LATIN
    scores: str = "English"  # what it is for, in messages
    by_recording: bool = False  # the reference is what is recognised in the source recording
    unit: str = "words"  # that errors are counted in
    aggregate: str = CORPUS  # what is reported: the corpus rate, or the mean of the items' rates

    def refuses(self, sample: Sample) -> str | None:
        """What a transcript is in, if it is not in one of the recipe's languages."""
        return other_language(sample.language, sample.text or "", self.languages, self.script)

    def measurement_of(self, sample: Sample) -> Measurement:
        """What recognises a sample; recognisers of many languages have one for each."""
        del sample
        return self.measurement

    def reference(self, text: str, text_kind: str) -> str:
        """A reference transcript, normalised.

        Raises:
            UserError: it holds words that the recipe cannot recognise.
        """
        del text_kind
        return self.normalise(text)

    def hypothesis(self, text: str, text_kind: str) -> str:
        """A recognised text, normalised."""
        del text_kind
        return self.normalise(text)

    def describe(self) -> dict[str, Any]:
        """The recipe as a JSON value, with what errors are counted in."""
        return super().describe() | {"unit": self.unit}
