"""The registered kinds of metric, and their recipes."""

from dataclasses import fields
from typing import Any

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.metrics.base import Metric
from gpst_jax.evaluation.metrics.dialogue import Answers
from gpst_jax.evaluation.metrics.identity import IdentityTransfer
from gpst_jax.evaluation.metrics.mos import OpinionScores
from gpst_jax.evaluation.metrics.recipe import Recipe
from gpst_jax.evaluation.metrics.speaker import Similarity
from gpst_jax.evaluation.metrics.wer import WordErrors

# In the order of the table's columns, then of the tables and lines below it.
METRICS: tuple[type[Metric], ...] = (
    WordErrors,
    Similarity,
    OpinionScores,
    IdentityTransfer,
    Answers,
)


def configure(**settings: Any) -> tuple[Metric, ...]:
    """One metric of each registered kind, with those settings that are fields of it.

    A setting that several kinds share, such as the recogniser, is passed to all of them.

    Raises:
        TypeError: no kind has a setting of that name.
        UserError: the value of a setting is invalid.
    """
    names = {kind: {option.name for option in fields(kind)} for kind in METRICS}
    unknown = settings.keys() - set().union(*names.values())
    if unknown:
        raise TypeError(f"no metric has a setting {', '.join(sorted(unknown))}")
    return tuple(
        kind(**{name: value for name, value in settings.items() if name in names[kind]})
        for kind in METRICS
    )


def all_recipes() -> dict[str, Recipe]:
    """All recipes by id."""
    return {id_: recipe for kind in METRICS for id_, recipe in kind.recipes.items()}


def get_recipe(recipe_id: str) -> Recipe:
    """The recipe of that id.

    Raises:
        UserError: there is none; the message lists those that exist.
    """
    known = all_recipes()
    if recipe_id not in known:
        raise UserError(f"no recipe {recipe_id!r}; there are: {', '.join(known)}")
    return known[recipe_id]


def kind_of(recipe_id: str) -> type[Metric]:
    """The kind that displays values of a recipe, which stored results may be alone in having.

    Recipes of no registered kind are displayed as the base class does.
    """
    return next((kind for kind in METRICS if recipe_id.startswith(kind.prefix)), Metric)
