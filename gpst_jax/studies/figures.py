"""Figures of a cell: where each is read from, and the sums by speaker that differences need.

A cell leaves its results where `calls` puts them: `train.json` of the training and, in
`evaluation`, `results.json`, `items.jsonl` and `utterances.jsonl`. Of every figure of items the
record keeps numerator and denominator of each speaker (of each item, where fewer than five speakers
are known): a few kilobytes, from which intervals over seeds and speakers follow anywhere.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.metrics import registry, statistics
from gpst_jax.evaluation.systems import read_items, read_results

RESULTS, ITEMS, UTTERANCES = "results.json", "items.jsonl", "utterances.jsonl"
TRAINED = "train.json"
FOLDER = "evaluation"
UNPAIRED = "samples"  # units that are of one run only
ONLY = "*"  # stands for a name where there is one
_DIGITS = 7  # significant ones of a sum in a record


class Figure(Protocol):
    """A number of a cell."""

    @property
    def key(self) -> str:
        """Its name in records."""
        ...

    @property
    def label(self) -> str:
        """Its name in tables, with the unit."""
        ...

    @property
    def scale(self) -> float:
        """Shown is the value times this."""
        ...

    @property
    def digits(self) -> int:
        """Shown after the point."""
        ...

    @property
    def better(self) -> str:
        """`lower` or `higher`; empty: neither."""
        ...

    def read(self, directory: Path) -> dict[str, Any]:
        """The figure of the cell in a directory: value, ci95, n and perhaps `units`.

        Raises:
            UserError: the cell's results do not have it.
        """
        ...


@dataclasses.dataclass(frozen=True)
class RecipeFigure:
    """A recipe's mean or rate in a condition of samples; `folder` holds its results.

    `*` is the only condition beside ceilings.
    """

    key: str
    label: str
    recipe: str
    condition: str
    scale: float = 1.0
    digits: int = 3
    better: str = "higher"
    folder: str = FOLDER

    def read(self, directory: Path) -> dict[str, Any]:
        """See `Figure`."""
        results = read_results(directory / self.folder / RESULTS)
        condition = self.condition
        if condition == ONLY:
            condition = _only(results["modes"], directory / self.folder / RESULTS)
        rows = {**results["ceilings"], **results["modes"]}.get(condition, {})
        if self.recipe not in rows:
            raise UserError(
                f"{directory / self.folder / RESULTS}: no {self.recipe} of {condition}, "
                f"which the figure {self.key} is read from"
            )
        items = read_items(directory / self.folder / ITEMS).get(condition, [])
        kind = registry.kind_of(self.recipe)
        scores = kind.stored(self.recipe, items, results.get("settings", {}))
        speakers = {item["id"]: item.get("speaker") or "" for item in items}
        table = [
            (id_, speakers[id_], *kind.columns(self.recipe, score))
            for id_, score in sorted(scores.items())
        ]
        return _with_units(rows[self.recipe], table)


@dataclasses.dataclass(frozen=True)
class LikelihoodFigure:
    """Held-out bits per second of audio, of all tokens or of one stream."""

    key: str = "bits_per_second"
    label: str = "held-out bits per second"
    stream: str = ""
    scale: float = 1.0
    digits: int = 1
    better: str = "lower"

    def read(self, directory: Path) -> dict[str, Any]:
        """See `Figure`."""
        name = "bits_per_second" + (f"_{self.stream}" if self.stream else "")
        results = read_results(directory / FOLDER / RESULTS)
        row = results.get("likelihood", {}).get("estimates", {}).get(name)
        if row is None:
            raise UserError(
                f"{directory / FOLDER / RESULTS}: no {name}: {results.get('left_out') or 'none'}"
            )
        table = []
        for line in _lines(directory / FOLDER / UTTERANCES):
            bits = [
                value
                for stream, value in line["bits"].items()
                if not self.stream or stream.startswith(self.stream)
            ]
            table.append((line["id"], line["speaker"], sum(bits), line["seconds"]))
        return _with_units(row, table)


@dataclasses.dataclass(frozen=True)
class EndsFigure:
    """The share of a condition's samples that the model ended by itself."""

    key: str = "ends"
    label: str = "unconditional speech that ends, %"
    condition: str = "unconditional"
    scale: float = 100.0
    digits: int = 0
    better: str = "higher"

    def read(self, directory: Path) -> dict[str, Any]:
        """See `Figure`."""
        results = read_results(directory / FOLDER / RESULTS)
        row = results.get("termination", {}).get(self.condition)
        if row is None:
            raise UserError(
                f"{directory / FOLDER / RESULTS}: no termination of {self.condition}: it is of "
                "runs that evaluate generates itself"
            )
        endings = row.get("endings", {})
        ended, n = endings.get("end", 0), sum(endings.values())
        if row.get("value") is None or not n:
            return _row(row)
        # Unconditional samples of two runs have nothing in common that could be paired.
        sums = {str(i): [float(i < ended), 1.0] for i in range(n)}
        return _row(row) | {"units": {"over": UNPAIRED, "sums": sums}}


@dataclasses.dataclass(frozen=True)
class TrainingFigure:
    """A number of the training: `parameters`, `steps`, or a metric such as `eval/loss`."""

    key: str
    label: str
    name: str
    scale: float = 1.0
    digits: int = 0
    better: str = ""

    def read(self, directory: Path) -> dict[str, Any]:
        """See `Figure`."""
        result = json.loads((directory / TRAINED).read_text(encoding="utf-8"))
        value = result.get(self.name, result.get("final", {}).get(self.name))
        if value is None:
            known = sorted({*result, *result.get("final", {})} - {"final"})
            raise UserError(f"{directory / TRAINED}: no {self.name}; there are {', '.join(known)}")
        return {"value": float(value), "ci95": None, "n": 1}


@dataclasses.dataclass(frozen=True)
class StepTimeFigure:
    """The median over the windows of a training's log of the seconds of a step."""

    key: str = "step_s"
    label: str = "seconds per step"
    scale: float = 1.0
    digits: int = 3
    better: str = ""

    def read(self, directory: Path) -> dict[str, Any]:
        """See `Figure`."""
        lines = _lines(directory / "train" / "metrics.jsonl")
        times = [line["perf/step_s"] for line in lines if "perf/step_s" in line]
        if not times:
            raise UserError(f"{directory / 'train'}: its metrics have no perf/step_s")
        return {"value": statistics.median(times).value, "ci95": None, "n": len(times)}


@dataclasses.dataclass(frozen=True)
class JsonFigure:
    """A number in a JSON file that a program of the cell wrote, by the names that lead to it.

    Where it is a row with a value, its interval is taken as well. `*` stands for the only name.
    """

    key: str
    label: str
    file: str
    path: tuple[str, ...]
    scale: float = 1.0
    digits: int = 2
    better: str = ""

    def read(self, directory: Path) -> dict[str, Any]:
        """See `Figure`."""
        found: Any = json.loads((directory / self.file).read_text(encoding="utf-8"))
        for name in self.path:
            if name == ONLY and isinstance(found, Mapping):
                name = _only(found, directory / self.file)
            if not isinstance(found, Mapping) or name not in found:
                raise UserError(f"{directory / self.file}: no {'/'.join(self.path)}")
            found = found[name]
        if isinstance(found, Mapping):
            return _row(found)
        return {"value": float(found), "ci95": None, "n": 1}


def _only(named: Mapping[str, Any], path: Path) -> str:
    """The only name; raises UserError where there are several, or none."""
    if len(named) != 1:
        raise UserError(f"{path}: {ONLY!r} stands for one name, there are {sorted(named)}")
    return next(iter(named))


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Value, interval and number of items of a row; the reason where it has no value."""
    kept = {name: row.get(name) for name in ("value", "ci95", "n")}
    if row.get("value") is None:
        kept["reason"] = row.get("reason", "not available")
    if row.get("interval"):
        kept["over"] = row["interval"]["over"]
    return kept


def _with_units(
    row: Mapping[str, Any], table: Iterable[tuple[str, str, float, float]]
) -> dict[str, Any]:
    """A row with the sums of its items (id, speaker, numerator, denominator) by unit."""
    rows = [entry for entry in table if entry[3]]
    if row.get("value") is None or not rows:
        return _row(row)
    speakers = statistics.usable([speaker for _, speaker, _, _ in rows])
    labels = [id_ for id_, *_ in rows] if speakers is None else speakers
    sums: dict[str, list[float]] = {}
    for label, (id_, _, numerator, denominator) in zip(labels, rows, strict=True):
        # Items of unknown speakers are units of their own, see `statistics.usable`.
        of_unit = sums.setdefault(f"item {id_}" if label.startswith("\0") else label, [0.0, 0.0])
        of_unit[0] += numerator
        of_unit[1] += denominator
    units = {name: [_short(value) for value in pair] for name, pair in sorted(sums.items())}
    return _row(row) | {
        "units": {"over": "items" if speakers is None else "speakers", "sums": units}
    }


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
