"""Lines of lhotse's manifests as lhotse's objects: one bad line costs one line."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from data_pipeline.runtime.errors import UserError

_FORMATS = (".jsonl", ".jsonl.gz")
# What constructors of lhotse's objects raise where a field is missing or of another type.
_MALFORMED = (ValueError, TypeError, KeyError, AttributeError, AssertionError, RecursionError)


class Item(NamedTuple):
    """A line of a manifest.

    Attributes:
        where: the line, for messages.
        value: an object of lhotse, or a dict where `deserialize` was not wanted; None with a
            problem.
        problem: why the line cannot be used, "" if it can.
    """

    where: str
    value: Any
    problem: str = ""


def import_lhotse() -> Any:
    """Imports `lhotse`.

    Raises:
        UserError: it is not installed.
    """
    try:
        import lhotse
    except ImportError as error:
        raise UserError(
            f"lhotse's manifests need lhotse ({error}): pip install 'gpst_jax[lhotse]'"
        ) from error
    return lhotse


def read_items(path: Path, deserialize: bool = True) -> Iterator[Item]:
    """Yields the items of a manifest; the last is a problem where the file ends early.

    Args:
        path: a `.jsonl` or `.jsonl.gz` file.
        deserialize: make lhotse's objects of them.

    Raises:
        UserError: another format, or the file cannot be opened.
    """
    if not path.name.endswith(_FORMATS):
        raise UserError(
            f"{path}: lhotse's manifests are read as {' or '.join(_FORMATS)}: convert it with "
            f"lhotse copy {path.name} {path.name.split('.')[0]}.jsonl.gz"
        )
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _parse(f"line {number} of {path.name}", line, deserialize)
    except FileNotFoundError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except (OSError, EOFError) as error:
        yield Item(path.name, None, f"truncated or damaged behind line {number} ({error})")


def _parse(where: str, line: bytes, deserialize: bool) -> Item:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Item(where, None, f"not a JSON object on one line: {error}")
    if not isinstance(value, dict):
        return Item(where, None, "not a JSON object")
    if not deserialize:
        return Item(where, value)
    if value.get("type") in ("MixedCut", "PaddingCut"):
        return Item(
            where,
            None,
            f"a {value['type']} ({value.get('id')}): its audio is mixed, padded or joined when it "
            "is loaded, and in no file: write it with cuts.save_audios(DIR), and give those cuts",
        )
    return make(where, value)


def make(where: str, value: dict[str, Any]) -> Item:
    """An object of lhotse from its description, or what is wrong with that."""
    from lhotse.serialization import deserialize_item

    name = value.get("id")
    try:
        return Item(where, deserialize_item(value))
    except _MALFORMED as error:
        message = f"{type(error).__name__}: {error}".strip(": ")
        return Item(where, None, f"not an item of lhotse's ({name}): {message}")
