"""Word error rate: recognisers, alignment counts, and their corpus aggregate.

A corpus word error rate is sum(S + D + I) / sum(reference words). An utterance whose file is
missing or cannot be decoded counts as all of its words deleted; it is never left out. Left out, and
counted, are references without words, and those in languages that a recipe's rules are not for.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from data_pipeline.runtime.errors import UserError
from data_pipeline.synthetic.questions import DIGITS
from gpst_jax.evaluation.comparisons import CEILINGS, derangement
from gpst_jax.evaluation.metrics import hf_models, pocketsphinx_digits, statistics
from gpst_jax.evaluation.metrics.base import Floor, Inputs, Metric, Row, Scores, setting
from gpst_jax.evaluation.metrics.recipe import Measurement, Recipe
from gpst_jax.samples.manifest import UNSEEN, Sample, pairs
from gpst_jax.samples.texts import (
    ENGLISH,
    LATIN,
    normalise_digits,
    normalise_librispeech,
    other_language,
)

__all__ = ["DIGITS", "normalise_digits", "normalise_librispeech"]  # beside what is defined here


@dataclass(frozen=True)
class TranscriptRecipe(Recipe):
    """A recogniser with the text normalisation applied to reference and hypothesis."""

    text_kinds: tuple[str, ...]  # of the transcripts it may score
    normalise: Callable[[str], str]
    languages: tuple[str, ...] = ENGLISH  # that the recogniser and its normalisation are for
    script: str = LATIN

    def refuses(self, sample: Sample) -> str | None:
        """What a transcript is in, if it is not in one of the recipe's languages."""
        return other_language(sample.language, sample.text or "", self.languages, self.script)


_JIWER = ("jiwer", "jiwer")
_CORPUS = "corpus: sum of S+D+I over sum of reference words; a failed file is all deletions"
RECIPES: dict[str, Recipe] = {
    recipe.id: recipe
    for recipe in (
        TranscriptRecipe(
            id="wer/pocketsphinx-digits-smoke",
            kind="wer",
            model="pocketsphinx with its bundled en-us acoustic model and a grammar of digit "
            f"strings (silprob {pocketsphinx_digits.SILENCE_PROBABILITY}, "
            f"wip {pocketsphinx_digits.WORD_INSERTION_PENALTY}, "
            f"{pocketsphinx_digits.PADDING_SECONDS} s padding, "
            f"{pocketsphinx_digits.NOISE_AMPLITUDE:g} fixed noise)",
            normalisation="lower case, no punctuation, numerals spelled, oh = zero",
            aggregation=_CORPUS,
            measurement=Measurement(
                id="transcript/pocketsphinx-digits",
                version=1,
                sample_rate=16000,
                modules=(("pocketsphinx", "pocketsphinx"), _JIWER),
                load=pocketsphinx_digits.load,
            ),
            text_kinds=("digits",),
            normalise=normalise_digits,
        ),
        TranscriptRecipe(
            id="wer/hubert-large-ls960-ctc",
            kind="wer",
            model="facebook/hubert-large-ls960-ft, greedy CTC, float32, one utterance at a time",
            normalisation="upper case, letters and apostrophes, numbers spelled",
            aggregation=_CORPUS,
            measurement=Measurement(
                id="transcript/hubert-large-ls960-ctc",
                version=1,
                sample_rate=16000,
                modules=(*hf_models.MODULES, _JIWER),
                load=hf_models.load_hubert_ctc,
                extra="codecs,eval",
                directory_variable=hf_models.HUBERT_CTC_VARIABLE,
            ),
            text_kinds=("digits", "free"),
            normalise=normalise_librispeech,
        ),
    )
}


@dataclass(frozen=True)
class ErrorCounts:
    """Alignment of one utterance."""

    words: int  # of the reference
    substitutions: int
    deletions: int
    insertions: int
    empty: bool  # the hypothesis has no words
    failed: bool = False  # the file could not be read

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions


def count_errors(reference: str, hypothesis: str | None) -> ErrorCounts:
    """Aligns normalised texts; a hypothesis of None (a failed file) deletes every word."""
    words = len(reference.split())
    recognised = len((hypothesis or "").split())
    if hypothesis is None or not recognised or not words:
        return ErrorCounts(words, 0, words, recognised, not recognised, hypothesis is None)
    import jiwer

    output = jiwer.process_words(reference, hypothesis)
    return ErrorCounts(words, output.substitutions, output.deletions, output.insertions, False)


def count_pair_errors(transcripts: Sequence[tuple[str | None, str | None]]) -> list[ErrorCounts]:
    """Aligns the second rendition of each pair with the transcript of the first.

    There is no reference text. When the first is empty the second serves as reference, all of it
    deleted. When both are empty, the pair counts as a deleted reference of the mean length of the
    others, so that silence never counts as agreement.
    """
    usable = [(a, b) if a else (b, a) for a, b in transcripts]
    lengths = [len(a.split()) for a, _ in usable if a]
    fallback = max(1, round(sum(lengths) / len(lengths))) if lengths else 1
    return [
        count_errors(a, b) if a else ErrorCounts(fallback, 0, fallback, 0, True, None in pair)
        for (a, b), pair in zip(usable, transcripts, strict=True)
    ]


def summarise(
    counts: Sequence[ErrorCounts], speakers: Sequence[str] | None, *, resamples: int, seed: int
) -> Row:
    """The corpus word error rate of a condition, with what a single number hides.

    Returns:
        value, ci95 (utterances resampled), ci95_speakers (speakers resampled; None with fewer
        than two, absent without speakers), n utterances, reference words, S, D and I, mean and
        median over utterances, share_above_half, share_empty, and the number of failed files.
        Utterances without reference words are not among them: `n_empty` counts them.
    """
    without = sum(not count.words for count in counts)
    apart = {"n_empty": without} if without else {}
    if speakers is not None:
        speakers = [s for s, count in zip(speakers, counts, strict=True) if count.words]
    counts = [count for count in counts if count.words]
    errors = np.array([count.errors for count in counts])
    words = np.array([count.words for count in counts])
    if not counts:
        return statistics.not_available("reference transcripts hold no words") | apart
    estimate = statistics.ratio(errors, words, resamples=resamples, seed=seed)
    ci95 = estimate.ci95
    if ci95 and not errors.sum():
        ci95 = statistics.share(0, int(words.sum())).ci95  # no errors: the bootstrap has no width
    rates = errors / words
    by_speaker: dict[str, Any] = {}
    if speakers is not None:
        clustered = statistics.ratio(
            errors, words, clusters=speakers, resamples=resamples, seed=seed
        )
        by_speaker = {"ci95_speakers": clustered.ci95, "speakers": len(set(speakers))}
    return {
        "value": estimate.value,
        "ci95": ci95,
        "n": len(counts),
        **by_speaker,
        "words": int(words.sum()),
        "substitutions": sum(count.substitutions for count in counts),
        "deletions": sum(count.deletions for count in counts),
        "insertions": sum(count.insertions for count in counts),
        "mean": float(rates.mean()),
        "median": float(np.median(rates)),
        "share_above_half": float((rates > 0.5).mean()),
        "share_empty": float(np.mean([count.empty for count in counts])),
        "failed": sum(count.failed for count in counts),
        **apart,
    }


class Transcribed(NamedTuple):
    """The samples that a recipe can score, by condition, with their normalised texts."""

    samples: dict[str, list[Sample]]  # with a reference transcript
    pairs: dict[str, list[tuple[Sample, Sample]]]  # two renditions of the same units
    references: dict[str, list[str]]  # in the order of `samples`
    texts: dict[Path, str | None]  # recognised; None for a failed file
    empty: dict[str, int]  # samples whose reference has no words when it is normalised
    refused: dict[str, Counter[str]]  # samples in languages that the recipe is not for, by language

    def hypotheses(self, condition: str) -> list[str | None]:
        """Recognised texts of `samples`."""
        return [self.texts[sample.audio] for sample in self.samples[condition]]

    def apart(self, condition: str) -> dict[str, int]:
        """Fields of a row: how many samples are counted apart, where there are any."""
        counts = {
            "n_empty": self.empty[condition],
            "n_other_language": self.refused[condition].total(),
        }
        return {name: count for name, count in counts.items() if count}


@dataclass(frozen=True)
class Transcripts(Metric):
    """Base of the kinds that score recognised text."""

    prefix: ClassVar[str] = "wer/"
    recipes: ClassVar[dict[str, Recipe]] = RECIPES

    wer: str = setting(
        "wer/pocketsphinx-digits-smoke",
        "Recipe of the word error rate. GPST_HUBERT_CTC in the environment names a local model.",
        tuple(RECIPES),
    )

    def selected(self) -> list[Recipe]:
        """The recogniser."""
        return [self.recipe(self.wer)]

    @classmethod
    def number(cls, value: float, signed: bool = False) -> str:
        """Error rates in per cent, their differences in percentage points."""
        return f"{100 * value:+.1f} pts" if signed else f"{100 * value:.1f} %"

    def transcribe(self, inputs: Inputs) -> Transcribed:
        """Recognises all samples with a transcript or a partner.

        Raises:
            UserError: a reference holds words that the recipe cannot recognise.
        """
        recipe: TranscriptRecipe = self.recipe(self.wer)
        scored: dict[str, list[Sample]] = {}
        references: dict[str, list[str]] = {}
        empty: dict[str, int] = {}
        refused: dict[str, Counter[str]] = {}
        for name, samples in inputs.conditions.items():
            of_kind = [s for s in samples if s.text and s.text_kind in recipe.text_kinds]
            foreign = [recipe.refuses(sample) for sample in of_kind]
            ours = [s for s, language in zip(of_kind, foreign, strict=True) if language is None]
            texts = [_reference(recipe, name, sample) for sample in ours]
            scored[name] = [s for s, text in zip(ours, texts, strict=True) if text]
            references[name] = [text for text in texts if text]
            empty[name] = len(texts) - len(references[name])
            refused[name] = Counter(language for language in foreign if language is not None)
        paired = {
            name: [p for p in pairs(samples) if p[0].text_kind in recipe.text_kinds]
            for name, samples in inputs.conditions.items()
        }
        files = [s.audio for samples in scored.values() for s in samples]
        files += [s.audio for group in paired.values() for pair in group for s in pair]
        outcomes = inputs.measure(recipe.measurement, files) if files else {}
        heard = {
            path: recipe.normalise(outcome.value) if outcome.ok else None
            for path, outcome in outcomes.items()
        }
        return Transcribed(scored, paired, references, heard, empty, refused)

    def missing(self, heard: Transcribed, name: str, samples: Sequence[Sample]) -> Row:
        """Why no sample of a condition could be scored."""
        recipe: TranscriptRecipe = self.recipe(self.wer)
        if refused := sorted(heard.refused[name]):
            scored = recipe.languages[-1].capitalize()
            reason = f"the transcripts are in {' and '.join(refused)}, {recipe.id} scores {scored}"
        elif heard.empty[name]:
            reason = "reference transcripts hold no words"
        elif any(s.text for s in samples):
            reason = f"no transcripts of kind {' or '.join(recipe.text_kinds)}"
        else:
            reason = "no transcripts"
        return statistics.not_available(reason) | heard.apart(name)


def _reference(recipe: TranscriptRecipe, condition: str, sample: Sample) -> str:
    try:
        return recipe.normalise(sample.text or "")
    except UserError as error:
        raise UserError(f"condition {condition}, sample {sample.id}: {error}") from error


@dataclass(frozen=True)
class WordErrors(Transcripts):
    """Word error rate against the transcript, or between two renditions of the same units."""

    kind: ClassVar[str] = "wer"
    item_fields: ClassVar[tuple[str, ...]] = ("transcript", "errors")
    floor_names: ClassVar[Mapping[str, str]] = {
        "shuffled_references": "shuffled transcripts",
        "shuffled_pairs_unconditional": "unconditional, shuffled pairs",
    }
    difference_note: ClassVar[str] = "Word error rates in points."

    def score(self, inputs: Inputs) -> Scores:
        """Rates of all conditions; shuffled transcripts and shuffled pairs are the floors."""
        heard = self.transcribe(inputs)
        scores = Scores()
        for name, samples in inputs.conditions.items():
            for s in samples:
                if s.audio in heard.texts:
                    scores.items[name, s.id] = {"transcript": heard.texts[s.audio]}
            counts: dict[str, ErrorCounts] = {}
            if heard.pairs[name]:
                row, floor = self._agreement(heard, name, inputs)
                scores.floors.append(Floor(f"shuffled_pairs_{name}", self.wer, floor, True))
            else:
                references = zip(heard.samples[name], heard.references[name], strict=True)
                counts = {s.id: count_errors(r, heard.texts[s.audio]) for s, r in references}
                row = self._row(heard, name, samples, counts, inputs)
            for id_, count in counts.items():
                scores.items[name, id_]["errors"] = asdict(count)
            scores.values[self.wer, name] = counts
            scores.rows[name, self.wer] = row
        scores.floors += self._shuffled_references(heard, inputs)
        return scores

    def _row(
        self,
        heard: Transcribed,
        name: str,
        samples: list[Sample],
        counts: Mapping[str, ErrorCounts],
        inputs: Inputs,
    ) -> Row:
        if not counts:
            return self.missing(heard, name, samples)
        speakers = [s.speaker for s in heard.samples[name]]
        return summarise(list(counts.values()), speakers, **inputs.bootstrap) | heard.apart(name)

    def _agreement(self, heard: Transcribed, name: str, inputs: Inputs) -> tuple[Row, Row]:
        """Agreement between the renditions of each pair, and between those of different pairs."""
        texts = [(heard.texts[a.audio], heard.texts[b.audio]) for a, b in heard.pairs[name]]
        row = summarise(count_pair_errors(texts), None, **inputs.bootstrap)
        row["reference"] = "transcript of the first rendition of the same units"
        if len(texts) < 2:
            return row, statistics.not_available("fewer than two pairs to shuffle")
        moved = derangement(len(texts), inputs.seed)
        shuffled = [(texts[j][0], texts[i][1]) for i, j in enumerate(moved)]
        return row, summarise(count_pair_errors(shuffled), None, **inputs.bootstrap)

    def _shuffled_references(self, heard: Transcribed, inputs: Inputs) -> list[Floor]:
        floors = []
        for suffix in ("", UNSEEN):
            for base in (*CEILINGS, "semantic_to_acoustic", "speaker_transfer", "tts"):
                name = base + suffix
                if heard.samples.get(name):
                    row = _shuffled(heard, name, inputs) | {"condition": name}
                    floors.append(Floor(f"shuffled_references{suffix}", self.wer, row))
                    break
        return floors

    def difference(
        self, values: Mapping[str, Any], base: Mapping[str, Any], *, resamples: int, seed: int
    ) -> Row:
        """Corpus word error rate minus that of the base, over the ids in both."""
        ids = sorted(values.keys() & base.keys())
        if not any(values[id_].words for id_ in ids):
            return statistics.not_available("no transcribed items in common")
        columns = [
            [getattr(table[id_], field) for id_ in ids]
            for table in (values, base)
            for field in ("errors", "words")
        ]
        estimate = statistics.paired_ratio_difference(*columns, resamples=resamples, seed=seed)
        return statistics.row(estimate, len(ids))

    @classmethod
    def item_note(cls, item: Mapping[str, Any]) -> str:
        """The transcript."""
        if item.get("transcript") is None:
            return ""
        return f"recognised: {item['transcript'] or 'nothing'}"


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
    return summarise(counts, [s.speaker for s in heard.samples[name]], **inputs.bootstrap)
