"""Minimal pairs: two recordings or token sequences, of which a model should prefer the first."""

import dataclasses
from pathlib import Path
from typing import Any

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.likelihood.files import read_rows

TABLES = (".csv", ".jsonl")


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """Two alternatives.

    Attributes:
        id: unique in its list.
        positive: recording, or token sequence of the model (see `Scoring.items`), to be preferred.
        negative: the other one.
        group: that accuracies are also given for; empty: none.
        cluster: pairs of one cluster are resampled together, such as the voices of one word; empty:
            the pair is its own.
    """

    id: str
    positive: Any
    negative: Any
    group: str = ""
    cluster: str = ""


def read_table(path: Path) -> list[Pair]:
    """Reads a list of pairs of recordings.

    Args:
        path: a CSV file with a header, or JSON lines, with `positive`, `negative` (paths relative
            to the file) and, where wanted, `group`, `id` and `cluster`.

    Raises:
        UserError: it cannot be read, a row is incomplete, or there are none.
    """
    pairs: dict[str, Pair] = {}
    for where, values in read_rows(path):
        for name in ("positive", "negative"):
            if not isinstance(values.get(name), str) or not values[name]:
                raise UserError(f"{where}: {name!r} must be the path of a recording")
        name = _text(values, "id", where) or str(len(pairs))
        if name in pairs:
            raise UserError(f"{where}: id {name!r} occurs twice")
        pairs[name] = Pair(
            name,
            path.parent / values["positive"],
            path.parent / values["negative"],
            _text(values, "group", where),
            _text(values, "cluster", where),
        )
    if not pairs:
        raise UserError(f"{path}: lists no pairs")
    return list(pairs.values())


def _text(values: dict[str, Any], name: str, where: str) -> str:
    value = values.get(name)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"{where}: {name!r} must be text, is {value!r}")
    return str(value)
