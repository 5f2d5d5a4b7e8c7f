"""The interface of a kind of metric: all that the suite, the tables and the flags use.

A kind is a frozen dataclass whose fields are its settings, in a file of its own. It is registered
in `gpst_jax.evaluation.metrics.registry.METRICS`; nothing else refers to a kind by name.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.comparisons import paired_difference
from gpst_jax.evaluation.metrics.display import Cell, Table, absent_cell, p_value
from gpst_jax.evaluation.metrics.display import items_of as items_of
from gpst_jax.evaluation.metrics.recipe import Measurement, Outcome, Recipe
from gpst_jax.samples.manifest import Sample, first_of_seeded_order

# `value`, `ci95`, `n` and whatever else the kind stores; or the value None and a `reason`.
Row = dict[str, Any]


def setting(default: Any, help: str = "", choices: Sequence[str] = ()) -> Any:
    """A field of a kind that the user may set; with a help text it becomes a flag."""
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True)
class Inputs:
    """What a metric scores: samples by condition, and the means to measure their files."""

    conditions: Mapping[str, list[Sample]]
    measure: Callable[[Measurement, Sequence[Path]], Mapping[Path, Outcome]]
    resamples: int  # of the bootstrap
    seed: int  # of the choice of items, the shuffles and the bootstrap

    def speakers(self, condition: str) -> dict[str, str]:
        """The speaker of each sample of a condition, by id."""
        return {sample.id: sample.speaker for sample in self.conditions[condition]}

    @property
    def bootstrap(self) -> dict[str, int]:
        """Keyword arguments of the functions in `statistics`."""
        return {"resamples": self.resamples, "seed": self.seed}

    def first(self, count: int) -> dict[str, list[Sample]]:
        """At most `count` samples per condition, the same ids in each."""
        return {
            name: first_of_seeded_order(samples, count, self.seed)
            for name, samples in self.conditions.items()
        }


class Floor(NamedTuple):
    """A baseline that any system should beat."""

    name: str
    recipe_id: str
    row: Row
    one_condition: bool = False  # belongs to a single condition; listed after the others


@dataclass
class Scores:
    """All that one metric contributes to the results."""

    # (condition, key) -> row. The key is a recipe id, or `side_key` of the condition.
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    # (recipe id, condition) -> sample id -> score, as `Metric.difference` takes them.
    values: dict[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    # (condition, sample id) -> values of `Metric.item_fields`, where there are any.
    items: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    floors: list[Floor] = field(default_factory=list)


@dataclass(frozen=True)
class Metric(abc.ABC):
    """One kind of metric with its settings.

    Raises:
        UserError: a recipe is not one of this kind, or a count is negative.
    """

    kind: ClassVar[str]
    prefix: ClassVar[str | tuple[str, ...]]  # of its recipe ids
    recipes: ClassVar[dict[str, Recipe]]
    item_fields: ClassVar[tuple[str, ...]] = ()  # keys of single items; null without a score
    floor_names: ClassVar[Mapping[str, str]] = {}  # how its floors are printed
    difference_note: ClassVar[str] = ""  # printed with the paired differences

    def __post_init__(self) -> None:
        self.selected()
        for option in fields(self):
            value = getattr(self, option.name)
            if isinstance(value, int) and value < 0:
                raise UserError(f"{option.name} must not be negative, is {value}")

    @abc.abstractmethod
    def selected(self) -> list[Recipe]:
        """The recipes in use; their packages are checked before any work."""

    @abc.abstractmethod
    def score(self, inputs: Inputs) -> Scores:
        """Scores the samples it applies to and aggregates them by condition."""

    @classmethod
    def recipe(cls, recipe_id: str) -> Any:
        """The recipe of that id; raises UserError when this kind has none."""
        if recipe_id not in cls.recipes:
            raise UserError(
                f"no recipe {recipe_id!r} of kind {cls.kind}; there are: {', '.join(cls.recipes)}"
            )
        return cls.recipes[recipe_id]

    @classmethod
    def difference(
        cls,
        recipe_id: str,
        values: Mapping[str, Any],
        base: Mapping[str, Any],
        *,
        speakers: Mapping[str, str],
        resamples: int,
        seed: int,
    ) -> Row:
        """Score of a condition minus that of its base, over the ids in both.

        Args:
            recipe_id: of the recipe that both were scored by.
            values: scores of the condition by sample id, as in `Scores.values`.
            base: those of its base.
            speakers: of the samples, by id.
            resamples: of the bootstrap and of the permutation.
            seed: of both.
        """
        ids = sorted(values.keys() & base.keys())
        pairs = {
            id_: (*cls.columns(recipe_id, values[id_]), *cls.columns(recipe_id, base[id_]))
            for id_ in ids
        }
        return paired_difference(pairs, speakers=speakers, resamples=resamples, seed=seed)

    @classmethod
    def columns(cls, recipe_id: str, value: Any) -> tuple[float, float]:
        """Numerator and denominator of a score, of which sums are divided; of a mean, it and 1."""
        del recipe_id
        return float(value), 1.0

    @classmethod
    def stored(
        cls, recipe_id: str, items: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Scores by sample id, as in `Scores.values`, out of the stored items of a condition.

        Args:
            recipe_id: of the scores.
            items: as the suite returns them.
            settings: of the results that belong to them.
        """
        del recipe_id, items, settings
        return {}

    # Display.

    @classmethod
    def number(cls, value: float, signed: bool = False) -> str:
        """A value, or with `signed` a difference, in the unit of this kind."""
        return f"{value:+.2f}" if signed else f"{value:.2f}"

    @classmethod
    def interval(cls, row: Row, signed: bool = False) -> str:
        """The 95 % interval of a row in the same unit, or an empty text."""
        if not row.get("ci95"):
            return ""
        low, high = (cls.number(end, signed).split(" ")[0] for end in row["ci95"])
        return f"[{low}, {high}]"

    @classmethod
    def cell(cls, row: Row | None, signed: bool = False) -> Cell:
        """A row as one cell of a table; empty where the metric does not apply."""
        if row is None:
            return Cell()
        if row.get("value") is None:
            return absent_cell(row)
        notes = [cls.interval(row, signed), f"n = {items_of(row)}"]
        if row.get("p") is not None:
            notes.append(p_value(row))
        return Cell(cls.number(row["value"], signed), tuple(notes))

    @classmethod
    def item_note(cls, item: Mapping[str, Any]) -> str:
        """What the page prints below the player of a scored item, if anything."""
        del item
        return ""

    @classmethod
    def side_key(cls, condition: str) -> str | None:
        """Key of this kind's row outside the columns of recipes; None for a kind without one."""
        del condition
        return None

    @classmethod
    def side_table(cls, rows: Sequence[tuple[str, Row]]) -> Table:
        """The table of the rows under `side_key`, for the page; `rows` are (condition, row)."""
        raise NotImplementedError(cls.kind)

    @classmethod
    def side_lines(cls, rows: Sequence[tuple[str, Row]]) -> list[str]:
        """The same rows as lines of text, for the terminal."""
        raise NotImplementedError(cls.kind)
