"""Sweeps: the runs of a grid over the fields of a configuration, their names, and their table.

A run is named by the fields in which it differs from the base, and a hash of them. A larger grid
therefore gives the runs of a smaller one the same names, and they are not trained again.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipeline.runtime.errors import UserError
from gpst_jax.checkpoints.record import flatten
from gpst_jax.config import RunConfig

LOWEST, HIGHEST = "lowest", "highest"
FINISHED, FAILED, UNFINISHED = "finished", "failed", "unfinished"
_LONGEST_VALUE, _LONGEST_NAME = 24, 60  # characters of the readable parts
_DIGITS = 8


@dataclasses.dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        name: the readable parts, such as `learning_rate=0.0001_seed=1`, and the hash.
        config: the complete configuration; `config.name` is that of the base and the hash.
        fields: what differs from the base, by dotted name.
    """

    name: str
    config: RunConfig
    fields: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """One run in the table of a sweep.

    Attributes:
        name: of the run.
        fields: in which it differs from the base.
        status: FINISHED, FAILED or UNFINISHED.
        value: the metric; None where the run has not written it.
        steps: finished steps; None: not known.
        message: why it failed.
        workdir: of the run.
    """

    name: str
    fields: Mapping[str, Any]
    status: str
    value: float | None
    steps: int | None
    message: str
    workdir: str


def parse_grid(texts: Sequence[str]) -> dict[str, list[str]]:
    """The values of each field, from texts such as `optimizer.learning_rate=1e-4,3e-4`.

    Raises:
        UserError: a text is no such list, or a field is given twice.
    """
    grid: dict[str, list[str]] = {}
    for text in texts:
        field, equals, values = text.partition("=")
        found = [value.strip() for value in values.split(",")]
        if not equals or not field or "" in found:
            raise UserError(f"--grid={text}: give section.field=VALUE,VALUE,...")
        if field == "name":
            raise UserError(f"--grid={text}: a sweep names its runs itself")
        if field in grid:
            raise UserError(f"--grid={text}: {field} is given twice: write all values in one list")
        grid[field] = found
    return grid


def make_runs(base: RunConfig, grid: Mapping[str, Sequence[str]]) -> list[SweepRun]:
    """All combinations of the values, the last field varying fastest.

    Raises:
        ConfigError: a field does not exist, or cannot have a value.
        UserError: two combinations are the same run.
    """
    runs: dict[str, SweepRun] = {}
    for values in itertools.product(*grid.values()):
        assignments = [f"{field}={value}" for field, value in zip(grid, values, strict=True)]
        config = base.override(assignments)
        fields = differences(base, config)
        name = run_name(fields)
        if name in runs:
            raise UserError(f"--grid: {' '.join(assignments)} is in it twice")
        named = dataclasses.replace(config, name=f"{base.name}-{name[-_DIGITS:]}")
        runs[name] = SweepRun(name, named, fields)
    return list(runs.values())


def differences(before: RunConfig, after: RunConfig) -> dict[str, Any]:
    """The fields in which `after` differs, by dotted name, with its values."""
    old, new = flatten(before.to_dict()), flatten(after.to_dict())
    return {name: new[name] for name in sorted(new) if name not in old or old[name] != new[name]}


def run_name(fields: Mapping[str, Any]) -> str:
    """The name of the run that differs in these fields: readable, unique, and fit for a folder."""
    last = [field.rpartition(".")[2] for field in fields]
    parts = []
    for (field, value), short in zip(fields.items(), last, strict=True):
        shown = short if last.count(short) == 1 else field
        parts.append(f"{shown}={_readable(value)}")
    digest = hashlib.sha256(json.dumps(dict(fields), sort_keys=True).encode()).hexdigest()
    return f"{'_'.join(parts)[:_LONGEST_NAME] or 'base'}_{digest[:_DIGITS]}"


def as_text(value: Any) -> str:
    """A value as `RunConfig.override` reads it."""
    return value if isinstance(value, str) else json.dumps(value)


def _readable(value: Any) -> str:
    return re.sub(r"[^\w.+-]+", "-", as_text(value), flags=re.ASCII).strip("-")[-_LONGEST_VALUE:]


def check_base(stored: Mapping[str, Any], base: RunConfig, where: str) -> None:
    """Refuses to mix the runs of two bases in one table.

    Args:
        stored: `RunConfig.to_dict` of the sweep's base when it was begun.
        base: that of now.
        where: the sweep's directory, for the message.

    Raises:
        UserError: they differ; the message names the first field, and both values.
    """
    # Parsed and written again, so that the records of former versions compare equal.
    old = flatten(RunConfig.from_json(json.dumps(stored)).to_dict())
    new = flatten(base.to_dict())
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            raise UserError(
                f"--workdir={where}: a sweep whose config field {name} is {old.get(name)!r}, here "
                f"it is {new.get(name)!r}: use the same base or another --workdir; what is to be "
                "varied goes into --grid"
            )


def sort_rows(rows: Sequence[Row], best: str) -> list[Row]:
    """Finished runs first, the best of them in front; then the unfinished, and those that failed.

    Args:
        rows: of all runs.
        best: LOWEST or HIGHEST.
    """
    states = (FINISHED, UNFINISHED, FAILED)

    def key(row: Row) -> tuple[int, float, str]:
        value = math.inf if row.value is None else row.value * (1 if best == LOWEST else -1)
        return states.index(row.status), value, row.name

    return sorted(rows, key=key)


def format_table(rows: Sequence[Row], metric: str) -> str:
    """The table for a terminal, in the order of `rows`."""
    cells = [("", metric, "run", "")]
    for place, row in enumerate(rows, 1):
        value = "" if row.value is None else f"{row.value:.4f}"
        steps = "" if row.steps is None else f" at step {row.steps}"
        state = "" if row.status == FINISHED else row.status + steps
        cells.append(
            (
                str(place) if row.status == FINISHED else "",
                value,
                row.name,
                f"{state}: {row.message}" if row.message else state,
            )
        )
    widths = [max(len(line[column]) for line in cells) for column in range(3)]
    return "\n".join(
        f"{place:>{widths[0]}}  {value:>{widths[1]}}  {name:<{widths[2]}}  {state}".rstrip()
        for place, value, name, state in cells
    )
