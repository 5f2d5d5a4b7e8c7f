"""The list of dialogues: a JSONL file that pairs records of a token dataset.

{"id": "0001", "split": "train", "question_record": "a/12", "answer_record": "b/7"}
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_pipeline.datasets.token_records import RecordReader
from data_pipeline.runtime.errors import UserError
from data_pipeline.sequences.shard import Dialogue

_KEYS = ("id", "split", "question_record", "answer_record")


def read_dialogues(path: str, tokens: str, splits: Iterable[str]) -> list[Dialogue]:
    """Reads a list of dialogues and finds their records, in any split of the dataset.

    Raises:
        UserError: the file cannot be read, or a line is not a dialogue; the message names the line.
    """
    splits = tuple(splits)
    lines = _lines(path, splits)
    wanted = {line[key] for line in lines for key in _KEYS[2:]}
    places = _places(tokens, splits, wanted)
    return [
        Dialogue(
            line["id"],
            line["split"],
            places.get(line["question_record"]),
            places.get(line["answer_record"]),
            tuple(line[key] for key in _KEYS[2:] if line[key] not in places),
        )
        for line in lines
    ]


def _lines(path: str, splits: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--dialogue={path}: {error}") from error
    found: list[dict[str, str]] = []
    seen: set[str] = set()
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        value = _line(f"{path}, line {number}", line, splits)
        if value["id"] in seen:
            raise UserError(f"{path}, line {number}: the id {value['id']!r} comes twice")
        seen.add(value["id"])
        found.append(value)
    if not found:
        raise UserError(f"--dialogue={path}: no dialogues")
    return found


def _line(where: str, line: str, splits: tuple[str, ...]) -> dict[str, str]:
    try:
        value: Any = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {error}") from error
    if not isinstance(value, dict) or set(value) != set(_KEYS):
        raise UserError(f"{where}: expected an object with the keys {', '.join(_KEYS)}")
    for key in _KEYS:
        if not isinstance(value[key], str) or not value[key]:
            raise UserError(f"{where}: {key} must be text, is {value[key]!r}")
    if value["split"] not in splits:
        raise UserError(
            f"{where}: no split {value['split']!r} in the dataset, choose one of "
            f"{', '.join(splits)}"
        )
    return value


def _places(tokens: str, splits: tuple[str, ...], wanted: set[str]) -> dict[str, tuple[str, int]]:
    """(split, number) of the records with the wanted ids."""
    places = {}
    for split in splits:
        reader = RecordReader(tokens, split)
        for number in range(len(reader)):
            name = reader[number].id
            if name in wanted:
                places[name] = (split, number)
    return places
