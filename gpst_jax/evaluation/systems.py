"""Systems that are compared: their stored results and items, several runs of each, and differences.

A system is one run, or several that differ in their seed. Both systems must have been scored by the
same recipes; a recipe whose model, version, normalisation or weights differ gives no difference.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.metrics import registry, statistics
from gpst_jax.evaluation.metrics.base import Row
from gpst_jax.samples.manifest import Sample, read_samples

Item = Mapping[str, Any]
# What makes the numbers of two recipes of one id incomparable.
_IDENTITY = ("version", "model", "normalisation", "aggregation", "weights_sha256")


@dataclass(frozen=True)
class Run:
    """One evaluation.

    Attributes:
        path: of its results.
        results: as `suite.evaluate` returns them.
        items: condition -> scores of single items.
        samples: condition -> its samples; empty without a directory of samples.
    """

    path: str
    results: Mapping[str, Any]
    items: Mapping[str, Sequence[Item]]
    samples: Mapping[str, Sequence[Sample]]

    def rows(self) -> dict[str, Mapping[str, Row]]:
        """Rows of all conditions: condition -> recipe id -> row."""
        return {**self.results["ceilings"], **self.results["modes"]}

    def scores(self, recipe_id: str, condition: str) -> dict[str, Any]:
        """Scores by sample id, as the kind of the recipe compares them."""
        settings = self.results.get("settings", {})
        items = self.items.get(condition, ())
        return registry.kind_of(recipe_id).stored(recipe_id, items, settings)

    def speakers(self, condition: str) -> dict[str, str]:
        """Speakers by sample id: of the items, or else of the samples."""
        found = {sample.id: sample.speaker for sample in self.samples.get(condition, ())}
        stored = {i["id"]: i["speaker"] for i in self.items.get(condition, ()) if i.get("speaker")}
        return found | stored

    def texts(self, condition: str) -> dict[str, Any]:
        """Reference texts by sample id."""
        return {item["id"]: item.get("text") for item in self.items.get(condition, ())}


@dataclass(frozen=True)
class System:
    """A system with its runs, which differ in their seed."""

    name: str
    runs: tuple[Run, ...]

    def conditions(self) -> list[str]:
        """Conditions of all its runs."""
        first, *others = (run.rows() for run in self.runs)
        return [name for name in first if all(name in rows for rows in others)]

    def recipes(self, condition: str) -> list[str]:
        """Recipes that scored a condition in all its runs."""
        first, *others = (run.rows()[condition] for run in self.runs)
        described = self.runs[0].results["recipes"]
        return [id_ for id_ in first if id_ in described and all(id_ in rows for rows in others)]


def read_results(path: str | Path) -> dict[str, Any]:
    """Results of an evaluation, or of a demo that holds them.

    Raises:
        UserError: the file cannot be read, or holds no results.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from error
    missing = [
        key
        for key in ("modes", "ceilings", "recipes")
        if not isinstance(results, dict) or not isinstance(results.get(key), dict)
    ]
    if missing:
        raise UserError(f"{path}: no results of experiments.evaluate: {missing[0]!r} is missing")
    return results


def read_items(path: str | Path) -> dict[str, list[dict[str, Any]]]:
    """Scores of single items by condition, as `experiments.evaluate --items_out` writes them.

    Raises:
        UserError: the file cannot be read, or a line is no such item.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    items: dict[str, dict[str, dict[str, Any]]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            condition, id_ = item.pop("condition"), item["id"]
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{path} line {number}: not an item with 'condition' and 'id', as evaluate's "
                "--items_out writes"
            ) from None
        group = items.setdefault(condition, {})
        if id_ in group:
            raise UserError(f"{path} line {number}: item {id_!r} of {condition} occurs twice")
        group[id_] = item
    return {condition: list(group.values()) for condition, group in items.items()}


def load_systems(
    results: Sequence[str],
    items: Sequence[str],
    samples: Sequence[str] = (),
    names: Sequence[str] = (),
) -> list[System]:
    """Systems in the order in which they are named; runs of equal names are of one system.

    Args:
        results: a file of each run.
        items: likewise, in the same order.
        samples: a directory of each run, or none.
        names: of each run; default: the directory, or else the file, that tells the runs apart.

    Raises:
        UserError: a file cannot be read, the lists are of unequal lengths, or there are fewer than
            two systems.
    """
    for flag, given in (("items", items), ("samples", samples), ("names", names)):
        if len(given) != len(results) and (given or flag == "items"):
            raise UserError(
                f"--{flag} has {len(given)} entries, --results {len(results)}: one for each run"
            )
    names = list(names) or _names(results)
    runs: dict[str, list[Run]] = {}
    for number, path in enumerate(results):
        run = Run(
            path,
            read_results(path),
            read_items(items[number]),
            read_samples(samples[number]) if samples else {},
        )
        runs.setdefault(names[number], []).append(run)
    if len(runs) < 2:
        raise UserError(f"--results: two systems are needed, got {', '.join(runs) or 'none'}")
    return [System(name, tuple(group)) for name, group in runs.items()]


def _names(paths: Sequence[str]) -> list[str]:
    """Short names that tell files apart: their stems, or the directories that they are in."""
    stems = [Path(path).stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    parents = [Path(path).resolve().parent.name for path in paths]
    return parents if len(set(parents)) == len(parents) else [str(path) for path in paths]


def differences(
    system: System, base: System, *, resamples: int, seed: int
) -> dict[str, dict[str, Row]]:
    """A system minus its base, on the same items: condition -> recipe id -> row.

    A row has `value`, `ci95`, `n`, `interval`, `p`, and `system` and `base`, the values of both on
    these items; `left_out` counts items that only one of them was scored on.

    Raises:
        UserError: items of one id have different texts.
    """
    found: dict[str, dict[str, Row]] = {}
    for condition in base.conditions():
        if condition not in system.conditions():
            continue
        _require_same_texts(system, base, condition)
        rows = {}
        for recipe_id in base.recipes(condition):
            if recipe_id not in system.recipes(condition):
                continue
            options: dict[str, Any] = {"resamples": resamples, "seed": seed}
            rows[recipe_id] = _difference(system, base, condition, recipe_id, **options)
        if rows:
            found[condition] = rows
    return found


def _require_same_texts(system: System, base: System, condition: str) -> None:
    known = base.runs[0].texts(condition)
    for run in (*system.runs, *base.runs):
        for id_, text in run.texts(condition).items():
            if id_ in known and known[id_] != text:
                raise UserError(
                    f"{run.path}: item {id_} of {condition} has another text than in "
                    f"{base.runs[0].path}: compare results on the same items"
                )


def _difference(
    system: System, base: System, condition: str, recipe_id: str, *, resamples: int, seed: int
) -> Row:
    if reason := _incomparable(system, base, recipe_id):
        return statistics.not_available(reason)
    kind = registry.kind_of(recipe_id)
    tables, bases = (
        [run.scores(recipe_id, condition) for run in side.runs] for side in (system, base)
    )
    every = [set(table) for table in (*tables, *bases)]
    shared = set.intersection(*every)
    columns = [
        {id_: kind.columns(recipe_id, table[id_]) for id_ in sorted(shared)}
        for table in (*tables, *bases)
    ]
    usable = [id_ for id_ in sorted(shared) if all(of[id_][1] for of in columns)]
    if not usable:
        return statistics.not_available("no scored items in common")
    speakers = base.runs[0].speakers(condition)
    if len(columns) == 2:
        row = kind.difference(
            recipe_id,
            {id_: tables[0][id_] for id_ in usable},
            {id_: bases[0][id_] for id_ in usable},
            speakers=speakers,
            resamples=resamples,
            seed=seed,
        )
    else:
        row = _over_runs(columns, len(tables), usable, speakers)
    means = [
        sum(of[id_][0] for of in side for id_ in usable)
        / sum(of[id_][1] for of in side for id_ in usable)
        for side in (columns[: len(tables)], columns[len(tables) :])
    ]
    left_out = len(set.union(*every)) - len(usable)
    return (
        row | {"system": means[0], "base": means[1]} | ({"left_out": left_out} if left_out else {})
    )


def _over_runs(
    columns: Sequence[Mapping[str, tuple[float, float]]],
    count: int,
    ids: Sequence[str],
    speakers: Mapping[str, str],
) -> Row:
    """The difference where a system has several runs; the first `count` columns are its own."""
    if len(ids) < 2:
        return statistics.not_available("fewer than two items in common")
    labels = statistics.usable([speakers.get(id_, "") for id_ in ids]) or list(ids)
    tables = [
        [(id_, label, *of[id_]) for id_, label in zip(ids, labels, strict=True)] for of in columns
    ]
    estimate = statistics.over_runs(tables[:count], tables[count:])
    return statistics.row(estimate, len(ids)) | {"runs": [count, len(columns) - count]}


def _incomparable(system: System, base: System, recipe_id: str) -> str:
    """Why numbers of a recipe cannot be compared, if so."""
    first = base.runs[0].results["recipes"][recipe_id]
    for run in (*system.runs, *base.runs):
        other = run.results["recipes"][recipe_id]
        for key in _IDENTITY:
            if first.get(key) != other.get(key):
                return f"{run.path} was scored with another {key.replace('_', ' ')}"
    return ""
