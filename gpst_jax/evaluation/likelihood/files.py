"""Lists of recordings to score, and the lines of JSON that say what came out."""

import csv
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.likelihood.scores import UNITS, Score, bits_per_second

_NAMES = ("path", "audio")  # of the column or key that holds a path


@dataclasses.dataclass(frozen=True)
class FileScore:
    """A recording and its score.

    Attributes:
        path: as it was given.
        sha256: of its content; None where it could not be read.
        seconds: duration; None where it could not be used.
        score: None where there is a failure.
        failure: why there is no score.
    """

    path: Path
    sha256: str | None = None
    seconds: float | None = None
    score: Score | None = None
    failure: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The line's object: log-likelihoods in nats, of all tokens, of the units, by stream."""
        if self.score is None or self.seconds is None:
            return {"path": str(self.path), "failure": self.failure}
        total, units = self.score.total(), self.score.total(UNITS)
        assert total is not None
        return {
            "path": str(self.path),
            "sha256": self.sha256,
            "seconds": self.seconds,
            **total.to_json(),
            "bits_per_second": bits_per_second(total.nats, self.seconds),
            "units": None if units is None else units.to_json(),
            "streams": {name: self.score.sum([name]).to_json() for name in self.score.nats},
            "failure": None,
        }


def read_list(path: str | Path) -> list[Path]:
    """The recordings that a file lists.

    Args:
        path: of a CSV file with a column `path`, JSON lines with a key `path` or `audio`, or else
            text with one path a line. Paths are relative to the file.

    Raises:
        UserError: it cannot be read, holds none, or a line has no path.
    """
    path = Path(path)
    if path.suffix not in (".csv", ".jsonl"):
        found = [line.strip() for line in read_lines(path) if line.strip()]
    else:
        found = [_path(values, where) for where, values in read_rows(path)]
    if not found:
        raise UserError(f"{path}: lists no recordings")
    return [path.parent / name for name in found]


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a CSV file with a header, or of JSON lines, each with its place for messages.

    Raises:
        UserError: the file cannot be read, or a line is not a JSON object.
    """
    lines = read_lines(path)
    if path.suffix == ".csv":
        reader = csv.DictReader(lines)
        yield from ((f"{path} line {reader.line_num}", dict(row)) for row in reader)
        return
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not JSON ({error.msg})") from None
        if not isinstance(values, dict):
            raise UserError(f"{where}: a JSON object is expected, not {type(values).__name__}")
        yield where, values


def read_lines(path: Path) -> list[str]:
    """The lines of a text file; raises UserError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def _path(values: dict[str, Any], where: str) -> str:
    for name in _NAMES:
        if isinstance(values.get(name), str) and values[name]:
            return values[name]
    raise UserError(f"{where}: no path under {' or '.join(map(repr, _NAMES))}")
