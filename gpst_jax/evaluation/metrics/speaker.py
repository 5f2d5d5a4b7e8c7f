"""Speaker similarity: cosines between embeddings of a speaker encoder.

SIM-o compares with the original recording of the prompt, SIM-r with a recording through the codec.
A generated file that is missing, silent or cannot be decoded scores 0; it is never left out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.comparisons import CEILINGS
from gpst_jax.evaluation.metrics import statistics
from gpst_jax.evaluation.metrics.base import Floor, Inputs, Metric, Row, Scores, setting
from gpst_jax.evaluation.metrics.recipe import Recipe
from gpst_jax.evaluation.speakers.recipes import ORIGINAL, RECIPES, RESYNTHESISED
from gpst_jax.samples.manifest import (
    SENTENCES,
    UNSEEN,
    Sample,
    similarity_reference,
    voice_files,
)

# The embedding of a file, or None where there is none.
Embed = Callable[[Path | None], list[float] | None]
# The file that a sample is compared with, and what it is; None where there is none.
Reference = Callable[[Sample], tuple[Path | None, str]]


def cosine(a: ArrayLike, b: ArrayLike) -> float:
    """Cosine similarity of two embeddings; 0 when one of them is zero."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norm = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / norm) if norm else 0.0


def is_transfer(sample: Sample) -> bool:
    """Whether the prompt is of another speaker than the source."""
    return sample.prompt_speaker not in (None, sample.speaker)


def summarise(
    values: Sequence[float],
    speakers: Sequence[str],
    *,
    reference: str,
    failed: int,
    resamples: int,
    seed: int,
) -> Row:
    """Mean cosine of a condition with its interval; `reference` names what it compares with."""
    if not values:
        return statistics.not_available(f"no samples with {reference}")
    bootstrap: dict[str, Any] = {"resamples": resamples, "seed": seed}
    estimate = statistics.mean(values, clusters=statistics.usable(speakers), **bootstrap)
    return {
        "value": estimate.value,
        "ci95": estimate.ci95,
        "interval": estimate.interval,
        "ci95_items": statistics.mean(values, **bootstrap).ci95,
        "ci95_speakers": statistics.mean(values, clusters=speakers, **bootstrap).ci95,
        "n": len(values),
        "speakers": len(set(speakers)),
        "reference": reference,
        "failed": failed,
    }


def another_speaker(samples: Sequence[Sample], embed: Embed, *, resamples: int, seed: int) -> Row:
    """Similarity of original recordings of different speakers.

    Prompt against source recording where samples have both; otherwise each source recording (or
    sample) against the next one of another speaker.
    """
    pairs: list[tuple[str, Path | None, Path | None]]
    pairs = [(s.speaker, s.prompt_audio, s.source_audio) for s in samples if is_transfer(s)]
    reference = "prompt_audio against source_audio of another speaker"
    values, speakers = _cosines(pairs, embed)
    if not values:
        reference = "recordings of different speakers"
        values, speakers = _cosines(_following(samples), embed)
    return summarise(
        values, speakers, reference=reference, failed=0, resamples=resamples, seed=seed
    )


def _following(samples: Sequence[Sample]) -> list[tuple[str, Path | None, Path | None]]:
    """Each original recording with the next one, cyclically, of another speaker."""
    originals = [(s.speaker, s.source_audio or s.audio) for s in samples]
    pairs: list[tuple[str, Path | None, Path | None]] = []
    for i, (name, path) in enumerate(originals):
        others = (p for other, p in originals[i + 1 :] + originals[:i] if other != name)
        if (other := next(others, None)) is not None:
            pairs.append((name, path, other))
    return pairs


def _cosines(
    pairs: Sequence[tuple[str, Path | None, Path | None]], embed: Embed
) -> tuple[list[float], list[str]]:
    """Cosines of the pairs (speaker, file, file) of which both have embeddings; speakers."""
    values, speakers = [], []
    for name, *paths in pairs:
        a, b = (embed(path) for path in paths)
        if a is not None and b is not None:
            values.append(cosine(a, b))
            speakers.append(name)
    return values, speakers


def resynthesised(condition: str, conditions: Mapping[str, Sequence[Sample]]) -> Reference:
    """What SIM-r compares the samples of a condition with.

    Where the prompt is another recording than the source, its speaker's reference recording through
    the codec; where the voice is the source's own, the source in the condition `codec`.
    """
    ending = next((end for end in (UNSEEN, SENTENCES) if condition.endswith(end)), "")
    codec = {sample.id: sample.audio for sample in conditions.get("codec" + ending, ())}

    def reference(sample: Sample) -> tuple[Path | None, str]:
        if sample.prompt_reference_codec_audio is not None:
            return sample.prompt_reference_codec_audio, "prompt_reference_codec_audio"
        if is_transfer(sample) or sample.source_audio is None:
            return None, ""
        return codec.get(sample.id), "the source through the codec"

    return reference


@dataclass(frozen=True)
class Embeddings(Metric):
    """Base of the kinds that compare speaker embeddings."""

    prefix: ClassVar[tuple[str, ...]] = (ORIGINAL, RESYNTHESISED)
    recipes: ClassVar[dict[str, Recipe]] = RECIPES

    similarity: str = setting(
        "sim-o/resemblyzer-smoke",
        "Recipe of the speaker similarity; sim-r of the same encoder is scored beside it. "
        "GPST_WAVLM_SV and GPST_WAVLM_LARGE_SV in the environment name local models.",
        tuple(id_ for id_ in RECIPES if id_.startswith(ORIGINAL)),
    )
    similarity_items: int = setting(100, "Items for similarity per condition; 0: none.")

    def selected(self) -> list[Recipe]:
        """The speaker encoder, with both kinds of references where it has recipes of both.

        Raises:
            UserError: the recipe chosen is one of SIM-r, which is scored beside SIM-o only.
        """
        chosen = self.recipe(self.similarity)
        if chosen.id.startswith(RESYNTHESISED):
            named = _twin(chosen.id, RESYNTHESISED, ORIGINAL)
            raise UserError(f"{chosen.id} is scored beside {named}: choose that")
        twin = self.recipes.get(_twin(chosen.id, ORIGINAL, RESYNTHESISED))
        return [chosen, *([twin] if twin else [])]

    def embed(self, inputs: Inputs) -> tuple[dict[str, list[Sample]], Embed]:
        """The samples to compare, by condition, and the embeddings of their files."""
        chosen = inputs.first(self.similarity_items)
        every = [s for samples in chosen.values() for s in samples]
        files = [path for s in every for path in voice_files(s)]
        files += [path for s in every if (path := s.prompt_reference_codec_audio) is not None]
        outcomes = inputs.measure(self.recipe(self.similarity).measurement, files)
        return chosen, lambda path: outcomes[path].value if path in outcomes else None


def _twin(recipe_id: str, prefix: str, other: str) -> str:
    return other + recipe_id.removeprefix(prefix)


# Keys of single items, by what they are compared with.
_FIELDS = {ORIGINAL: "similarity", RESYNTHESISED: "similarity_resynthesised"}


@dataclass(frozen=True)
class Similarity(Embeddings):
    """Mean cosine with the original recording of the prompt, or else of the source."""

    kind: ClassVar[str] = "similarity"
    item_fields: ClassVar[tuple[str, ...]] = tuple(_FIELDS.values())
    floor_names: ClassVar[Mapping[str, str]] = {"another_speaker": "another speaker"}

    def score(self, inputs: Inputs) -> Scores:
        """Similarities of all conditions; recordings of another speaker are the floor."""
        scores = Scores()
        if not self.similarity_items:
            return scores
        chosen, embed = self.embed(inputs)
        for recipe in self.selected():
            prefix = _prefix(recipe.id)
            for name, samples in chosen.items():
                reference = _originals(samples)
                if prefix == RESYNTHESISED:
                    reference = resynthesised(name, chosen)
                    if name.startswith("codec") or not any(reference(s)[0] for s in samples):
                        continue  # of the codec's own condition it would be its ceiling
                row, values = self._condition(samples, embed, reference, inputs)
                scores.rows[name, recipe.id] = row
                scores.values[recipe.id, name] = values
                for id_, value in values.items():
                    scores.items.setdefault((name, id_), {})[_FIELDS[prefix]] = value
        for suffix in ("", UNSEEN):
            prompted = ("speaker_transfer", "voice_conversion", *CEILINGS)
            usable = [base + suffix for base in prompted if base + suffix in chosen]
            if usable:
                row = another_speaker(chosen[usable[0]], embed, **inputs.bootstrap)
                scores.floors.append(Floor(f"another_speaker{suffix}", self.similarity, row))
        return scores

    @staticmethod
    def _condition(
        samples: list[Sample], embed: Embed, referred: Reference, inputs: Inputs
    ) -> tuple[Row, dict[str, float]]:
        """The row of a condition and the cosines of its items."""
        values: dict[str, float] = {}
        speakers, against, failed, unusable = [], set(), 0, 0
        for sample in samples:
            path, reference_kind = referred(sample)
            if path is None:
                continue
            reference, generated = embed(path), embed(sample.audio)
            if reference is None:
                unusable += 1  # without the original there is nothing to compare with
                continue
            failed += generated is None
            values[sample.id] = 0.0 if generated is None else cosine(generated, reference)
            speakers.append(sample.prompt_speaker or sample.speaker)
            against.add(reference_kind)
        row = summarise(
            list(values.values()),
            speakers,
            reference=" or ".join(sorted(against)) or "a prompt or source recording",
            failed=failed,
            **inputs.bootstrap,
        )
        return row | ({"unusable_references": unusable} if unusable else {}), values

    @classmethod
    def stored(
        cls, recipe_id: str, items: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
    ) -> dict[str, float]:
        """The cosine of each item that has one by this recipe."""
        prefix = _prefix(recipe_id)
        if settings.get("similarity") != _twin(recipe_id, prefix, ORIGINAL):
            return {}
        key = _FIELDS[prefix]
        return {item["id"]: item[key] for item in items if item.get(key) is not None}


def _prefix(recipe_id: str) -> str:
    return RESYNTHESISED if recipe_id.startswith(RESYNTHESISED) else ORIGINAL


def _originals(samples: list[Sample]) -> Reference:
    return lambda sample: similarity_reference(sample, samples)
