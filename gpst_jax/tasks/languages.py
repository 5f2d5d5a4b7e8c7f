"""Word and character errors by language, of the scores of single items."""

from collections.abc import Mapping, Sequence
from typing import Any

from gpst_jax.evaluation.transcripts.alignment import ErrorCounts, summarise
from gpst_jax.samples.manifest import Sample
from gpst_jax.samples.texts import language_code

_UNKNOWN = "und"


def by_language(
    conditions: Mapping[str, Sequence[Sample]],
    items: Mapping[str, Sequence[Mapping[str, Any]]],
    recipes: Sequence[str],
    *,
    resamples: int,
    seed: int,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Rates of each language, where a recipe scores it.

    Args:
        conditions: samples by condition.
        items: scores of single items by condition, from `suite.evaluate`.
        recipes: of word errors, the main one first.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        Condition -> language -> recipe id -> {value, ci95, n, ...}.
    """
    rates: dict[str, dict[str, dict[str, Any]]] = {}
    for name, samples in conditions.items():
        scores = {item["id"]: item for item in items.get(name, ())}
        groups: dict[str, list[Sample]] = {}
        for sample in samples:
            groups.setdefault(language_code(sample.language) or _UNKNOWN, []).append(sample)
        for code, group in sorted(groups.items()):
            for number, recipe in enumerate(recipes):
                found = [(s, _counts(scores.get(s.id, {}), recipe, number == 0)) for s in group]
                scored = [(sample, counts) for sample, counts in found if counts is not None]
                if scored:
                    row = summarise(
                        [counts for _, counts in scored],
                        [sample.speaker for sample, _ in scored],
                        resamples=resamples,
                        seed=seed,
                    )
                    rates.setdefault(name, {}).setdefault(code, {})[recipe] = row
    return rates


def _counts(item: Mapping[str, Any], recipe: str, main: bool) -> ErrorCounts | None:
    """The errors that a recipe counted in an item; those of the main one stand in the item."""
    found = item if main else (item.get("further") or {}).get(recipe) or {}
    return ErrorCounts(**found["errors"]) if found.get("errors") else None
