"""Which samples a recipe can score, with their reference and recognised texts."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.metrics import statistics
from gpst_jax.evaluation.metrics.base import Inputs, Row
from gpst_jax.evaluation.metrics.recipe import Measurement
from gpst_jax.evaluation.transcripts.recipe import TranscriptRecipe
from gpst_jax.samples.manifest import Sample, first_of_seeded_order, pairs

BY_RECORDING = "what the recogniser hears in the recording"


@dataclass(frozen=True)
class Transcribed:
    """The samples that a recipe can score, by condition, with their normalised texts."""

    recipe: TranscriptRecipe
    samples: dict[str, list[Sample]]  # with a reference transcript
    pairs: dict[str, list[tuple[Sample, Sample]]]  # two renditions of the same units
    references: dict[str, list[str]]  # in the order of `samples`
    texts: dict[tuple[Path, str], str | None]  # recognised in (audio, text kind); None: failed
    empty: dict[str, int]  # samples whose reference has no words when it is normalised
    refused: dict[str, Counter[str]]  # samples in languages that the recipe is not for, by language
    unusable: dict[str, int]  # samples whose recording, the reference, cannot be read

    def heard(self, sample: Sample) -> str | None:
        """The recognised text of a sample; None where its file could not be read."""
        return self.texts[sample.audio, sample.text_kind]

    def hypotheses(self, condition: str) -> list[str | None]:
        """Recognised texts of `samples`."""
        return [self.heard(sample) for sample in self.samples[condition]]

    def apart(self, condition: str) -> dict[str, int]:
        """Fields of a row: how many samples are counted apart, where there are any."""
        counts = {
            "n_empty": self.empty[condition],
            "n_other_language": self.refused[condition].total(),
            "unusable_references": self.unusable[condition],
        }
        return {name: count for name, count in counts.items() if count}

    def missing(self, condition: str, samples: Sequence[Sample]) -> Row:
        """Why no sample of a condition could be scored."""
        recipe = self.recipe
        if refused := sorted(self.refused[condition]):
            found = " and ".join(refused)
            reason = f"the transcripts are in {found}, {recipe.id} scores {recipe.scores}"
        elif self.empty[condition] or self.unusable[condition]:
            reason = "reference transcripts hold no words"
        elif recipe.by_recording:
            reason = "no samples that render a recording"
        elif any(s.text for s in samples):
            reason = f"no transcripts of kind {' or '.join(recipe.text_kinds)}"
        else:
            reason = "no transcripts"
        return statistics.not_available(reason) | self.apart(condition)


def transcribe(
    recipe: TranscriptRecipe, inputs: Inputs, count: int = 0, limited: Collection[str] = ()
) -> Transcribed:
    """Recognises all samples with a reference or a partner.

    Args:
        recipe: the recogniser.
        inputs: samples by condition, and the means to measure their files.
        count: at most so many items of a limited condition, the same ids in each; 0: all.
        limited: names of these conditions.

    Raises:
        UserError: a reference holds words that the recipe cannot recognise.
    """
    conditions = {
        name: _first(samples, count if name in limited else 0, inputs.seed)
        for name, samples in inputs.conditions.items()
    }
    scored: dict[str, list[Sample]] = {}
    refused: dict[str, Counter[str]] = {}
    for name, samples in conditions.items():
        of_kind = [s for s in samples if _has_reference(recipe, s)]
        foreign = [recipe.refuses(sample) for sample in of_kind]
        scored[name] = [s for s, language in zip(of_kind, foreign, strict=True) if language is None]
        refused[name] = Counter(language for language in foreign if language is not None)
    paired = {
        name: [p for p in pairs(samples) if p[0].text_kind in recipe.text_kinds]
        for name, samples in conditions.items()
    }
    # Texts are checked before any work, and those without words are not recognised.
    texts = _recognise(recipe, scored, paired, inputs) if recipe.by_recording else {}
    references: dict[str, list[str]] = {}
    empty, unusable = dict.fromkeys(conditions, 0), dict.fromkeys(conditions, 0)
    for name, samples in scored.items():
        found = [_reference(recipe, name, sample, texts) for sample in samples]
        scored[name] = [s for s, text in zip(samples, found, strict=True) if text]
        references[name] = [text for text in found if text]
        empty[name], unusable[name] = found.count(""), found.count(None)
    if not recipe.by_recording:
        texts = _recognise(recipe, scored, paired, inputs)
    return Transcribed(recipe, scored, paired, references, texts, empty, refused, unusable)


def _first(samples: list[Sample], count: int, seed: int) -> list[Sample]:
    """At most `count` samples, or pairs of them."""
    if not count:
        return samples
    paired = pairs(samples)
    if not paired:
        return first_of_seeded_order(samples, count, seed)
    chosen = first_of_seeded_order([first for first, _ in paired], count, seed)
    kept = {sample.pair for sample in chosen}
    return [sample for sample in samples if sample.pair in kept]


def _has_reference(recipe: TranscriptRecipe, sample: Sample) -> bool:
    there = sample.source_audio if recipe.by_recording else sample.text
    return bool(there) and sample.text_kind in recipe.text_kinds


def _recognise(
    recipe: TranscriptRecipe,
    scored: Mapping[str, list[Sample]],
    paired: Mapping[str, list[tuple[Sample, Sample]]],
    inputs: Inputs,
) -> dict[tuple[Path, str], str | None]:
    """Normalised texts by file and kind of text; the files of one measurement at once."""
    samples = [s for group in scored.values() for s in group]
    files = [(s, s.audio) for s in samples]
    if recipe.by_recording:
        files += [(s, s.source_audio) for s in samples if s.source_audio]
    files += [(s, s.audio) for group in paired.values() for pair in group for s in pair]
    jobs: dict[str, tuple[Measurement, list[tuple[Path, str]]]] = {}
    for sample, path in files:
        measurement = recipe.measurement_of(sample)
        jobs.setdefault(measurement.id, (measurement, []))[1].append((path, sample.text_kind))
    texts: dict[tuple[Path, str], str | None] = {}
    for measurement, keys in jobs.values():
        outcomes = inputs.measure(measurement, [path for path, _ in keys])
        for path, kind in dict.fromkeys(keys):
            outcome = outcomes[path]
            texts[path, kind] = recipe.hypothesis(outcome.value, kind) if outcome.ok else None
    return texts


def _reference(
    recipe: TranscriptRecipe,
    condition: str,
    sample: Sample,
    texts: Mapping[tuple[Path, str], str | None],
) -> str | None:
    """The normalised reference; None where a recording that serves as one cannot be read."""
    if recipe.by_recording and sample.source_audio:
        return texts[sample.source_audio, sample.text_kind]
    try:
        return recipe.reference(sample.text or "", sample.text_kind)
    except UserError as error:
        raise UserError(f"condition {condition}, sample {sample.id}: {error}") from error
