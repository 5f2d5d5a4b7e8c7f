"""Word error rate: of every chosen recogniser, against transcripts or between two renditions.

The first recipe is the main one: what a sample is called right by, and all that older results hold.
Those after it, such as Whisper beside a recogniser of digit strings, add columns of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from data_pipeline.runtime.errors import UserError
from data_pipeline.synthetic.questions import DIGITS
from gpst_jax.evaluation.comparisons import CEILINGS, derangement
from gpst_jax.evaluation.metrics import statistics
from gpst_jax.evaluation.metrics.base import Floor, Inputs, Metric, Row, Scores, setting
from gpst_jax.evaluation.metrics.recipe import Recipe
from gpst_jax.evaluation.transcripts.alignment import (
    CORPUS,
    ErrorCounts,
    count_errors,
    count_pair_errors,
    summarise,
)
from gpst_jax.evaluation.transcripts.recipe import TranscriptRecipe
from gpst_jax.evaluation.transcripts.recipes import DIGITS_RECIPE, RECIPES
from gpst_jax.evaluation.transcripts.transcribed import BY_RECORDING, Transcribed, transcribe
from gpst_jax.samples.manifest import SENTENCES, UNSEEN, Sample
from gpst_jax.samples.texts import normalise_digits, normalise_librispeech

__all__ = [  # beside what is defined here
    "DIGITS",
    "RECIPES",
    "TranscriptRecipe",
    "normalise_digits",
    "normalise_librispeech",
]


@dataclass(frozen=True)
class Transcripts(Metric):
    """Base of the kinds that score recognised text."""

    prefix: ClassVar[tuple[str, ...]] = ("wer/", "cer/")
    recipes: ClassVar[dict[str, Recipe]] = RECIPES

    wer: tuple[str, ...] = setting(
        (DIGITS_RECIPE,),
        "Recipes of the word error rate, the main one first. GPST_HUBERT_CTC and GPST_WHISPER in "
        "the environment name local models.",
        tuple(RECIPES),
    )
    wer_items: int = setting(
        100,
        "Items per condition that the recipes of --wer after the first score, where the first one "
        "scores it too; 0: all.",
    )

    def selected(self) -> list[Recipe]:
        """The recognisers."""
        if not self.wer:
            raise UserError("wer names no recipe: give one or more")
        return [self.recipe(recipe_id) for recipe_id in dict.fromkeys(self.wer)]

    @classmethod
    def number(cls, value: float, signed: bool = False) -> str:
        """Error rates in per cent, their differences in percentage points."""
        return f"{100 * value:+.1f} pts" if signed else f"{100 * value:.1f} %"

    def transcribe(self, inputs: Inputs) -> Transcribed:
        """Recognises all samples with a transcript or a partner, by the first recipe.

        Raises:
            UserError: a reference holds words that the recipe cannot recognise.
        """
        return transcribe(self.recipe(self.wer[0]), inputs)


@dataclass(frozen=True)
class WordErrors(Transcripts):
    """Word error rate against the transcript, or between two renditions of the same units."""

    kind: ClassVar[str] = "wer"
    item_fields: ClassVar[tuple[str, ...]] = ("transcript", "errors", "further")
    floor_names: ClassVar[Mapping[str, str]] = {
        "shuffled_references": "shuffled transcripts",
        "shuffled_references_sentences": "shuffled transcripts, sentences",
        "shuffled_pairs_unconditional": "unconditional, shuffled pairs",
    }
    difference_note: ClassVar[str] = "Word error rates in points."

    def score(self, inputs: Inputs) -> Scores:
        """Rates of all conditions; shuffled transcripts and shuffled pairs are the floors."""
        scores = Scores()
        heard = self.transcribe(inputs)
        self._score(heard, inputs, scores)
        limited = [name for name in inputs.conditions if heard.samples[name] or heard.pairs[name]]
        for recipe_id in list(dict.fromkeys(self.wer))[1:]:
            recipe: TranscriptRecipe = self.recipe(recipe_id)
            self._score(transcribe(recipe, inputs, self.wer_items, limited), inputs, scores)
        return scores

    def _score(self, heard: Transcribed, inputs: Inputs, scores: Scores) -> None:
        """Adds the scores of one recipe."""
        recipe_id = heard.recipe.id
        for name, samples in inputs.conditions.items():
            counts: dict[str, ErrorCounts] = {}
            if heard.pairs[name]:
                row, floor = self._agreement(heard, name, inputs)
                scores.floors.append(Floor(f"shuffled_pairs_{name}", recipe_id, floor, True))
            else:
                references = zip(heard.samples[name], heard.references[name], strict=True)
                counts = {s.id: count_errors(r, heard.heard(s)) for s, r in references}
                row = self._row(heard, name, samples, counts, inputs)
            self._add_items(heard, name, samples, counts, scores)
            scores.values[recipe_id, name] = counts
            scores.rows[name, recipe_id] = row
        scores.floors += self._shuffled_references(heard, inputs)

    def _add_items(
        self,
        heard: Transcribed,
        name: str,
        samples: list[Sample],
        counts: Mapping[str, ErrorCounts],
        scores: Scores,
    ) -> None:
        """Adds transcripts and counts of single items: of further recipes by their ids."""
        for sample in samples:
            if (sample.audio, sample.text_kind) not in heard.texts:
                continue
            found: dict[str, Any] = {"transcript": heard.heard(sample)}
            if sample.id in counts:
                found["errors"] = asdict(counts[sample.id])
            item = scores.items.setdefault((name, sample.id), {})
            if heard.recipe.id == self.wer[0]:
                item |= found
            else:
                item.setdefault("further", {})[heard.recipe.id] = found

    def _row(
        self,
        heard: Transcribed,
        name: str,
        samples: list[Sample],
        counts: Mapping[str, ErrorCounts],
        inputs: Inputs,
    ) -> Row:
        if not counts:
            return heard.missing(name, samples)
        speakers = [s.speaker for s in heard.samples[name]]
        row = summarise(
            list(counts.values()),
            speakers,
            aggregate=heard.recipe.aggregate,
            **inputs.bootstrap,
        ) | heard.apart(name)
        if heard.recipe.by_recording:
            row["reference"] = BY_RECORDING
            if name.startswith("recording"):
                row["reference"] += ": of the recording itself, so that there are no errors"
        return row

    def _agreement(self, heard: Transcribed, name: str, inputs: Inputs) -> tuple[Row, Row]:
        """Agreement between the renditions of each pair, and between those of different pairs."""
        texts = [(heard.heard(a), heard.heard(b)) for a, b in heard.pairs[name]]
        options: dict[str, Any] = {"aggregate": heard.recipe.aggregate, **inputs.bootstrap}
        row = summarise(count_pair_errors(texts), None, **options)
        row["reference"] = "transcript of the first rendition of the same units"
        if len(texts) < 2:
            return row, statistics.not_available("fewer than two pairs to shuffle")
        moved = derangement(len(texts), inputs.seed)
        shuffled = [(texts[j][0], texts[i][1]) for i, j in enumerate(moved)]
        return row, summarise(count_pair_errors(shuffled), None, **options)

    def _shuffled_references(self, heard: Transcribed, inputs: Inputs) -> list[Floor]:
        floors = []
        for suffix in ("", SENTENCES, UNSEEN):
            for base in (*CEILINGS, "semantic_to_acoustic", "speaker_transfer", "tts"):
                name = base + suffix
                if heard.samples.get(name):
                    row = _shuffled(heard, name, inputs) | {"condition": name}
                    floors.append(Floor(f"shuffled_references{suffix}", heard.recipe.id, row))
                    break
        return floors

    @classmethod
    def columns(cls, recipe_id: str, value: Any) -> tuple[float, float]:
        """Errors and words of an utterance; where a mean is reported, their rate and 1."""
        if not value.words or _aggregate(recipe_id) == CORPUS:
            return float(value.errors), float(value.words)
        return value.errors / value.words, 1.0

    @classmethod
    def stored(
        cls, recipe_id: str, items: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
    ) -> dict[str, ErrorCounts]:
        """The counts of each item that the recipe scored."""
        chosen = settings.get("wer") or ()
        main = chosen if isinstance(chosen, str) else next(iter(chosen), "")
        counts = {}
        for item in items:
            found = item if recipe_id == main else (item.get("further") or {}).get(recipe_id) or {}
            if errors := found.get("errors"):
                known = {field.name for field in fields(ErrorCounts)}
                counts[item["id"]] = ErrorCounts(
                    **{name: value for name, value in errors.items() if name in known}
                )
        return counts

    @classmethod
    def item_note(cls, item: Mapping[str, Any]) -> str:
        """The transcript; of the recipes after the first one, with their names."""
        notes = []
        if item.get("transcript") is not None:
            notes.append(f"recognised: {item['transcript'] or 'nothing'}")
        for recipe_id, found in (item.get("further") or {}).items():
            if found["transcript"] is not None:
                notes.append(f"by {recipe_id}: {found['transcript'] or 'nothing'}")
        return "; ".join(notes)


def _shuffled(heard: Transcribed, name: str, inputs: Inputs) -> Row:
    """Word error rate against the references of other items: chance level."""
    references, hypotheses = heard.references[name], heard.hypotheses(name)
    if len(references) < 2:
        return statistics.not_available("fewer than two items to shuffle")
    moved = derangement(len(references), inputs.seed)
    counts = [
        count_errors(references[other], hypothesis)
        for other, hypothesis in zip(moved, hypotheses, strict=True)
    ]
    speakers = [s.speaker for s in heard.samples[name]]
    return summarise(counts, speakers, aggregate=heard.recipe.aggregate, **inputs.bootstrap)


def _aggregate(recipe_id: str) -> str:
    recipe = RECIPES.get(recipe_id)
    return recipe.aggregate if isinstance(recipe, TranscriptRecipe) else CORPUS
