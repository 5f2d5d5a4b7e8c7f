"""Tables as people write them: CSV, TSV and JSONL, plain or gzipped, with or without a header.

`columns` has the names that are understood. A row that cannot be used has the reason, and the
others are read: one bad byte or quotation mark costs one row.
"""

import codecs
import functools
import gzip
import io
import itertools
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipeline.audio.io import AUDIO_SUFFIXES
from data_pipeline.runtime.errors import UserError
from data_pipeline.sources.tables import columns
from data_pipeline.sources.tables.delimited import (
    Dialect,
    Record,
    cells_of_any_length,
    first_record,
    most_common_width,
    read_records,
)

FORMATS = (".csv", ".tsv", ".jsonl", ".json")
_DELIMITERS = ",\t;|"
# With another encoding than UTF-8 only if the file says so.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE = 200  # rows that tell what a column holds
_SEPARATOR = re.compile(r'"?sep=([,\t;|])"?\s*', re.IGNORECASE)  # Excel's first line


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        line: number of its first line, from 1.
        cells: stripped, by our names of the columns; "" if empty.
        problem: why it cannot be used, "" if it can.
    """

    line: int
    cells: dict[str, str]
    problem: str


class Table(NamedTuple):
    """A table: our names of the columns that it has, and its rows."""

    columns: tuple[str, ...]
    rows: list[Row]


def read_table(path: Path, what: str = "manifest") -> Table:
    """Reads a table; its suffix and content determine the format.

    Blank rows are skipped. Columns that look like transcripts or times but are not understood are
    named in a warning, as is what a table without header was taken for.

    Args:
        path: a file of one of `FORMATS`, or of those with .gz; other suffixes are read as .csv.
        what: what messages call the file.

    Raises:
        UserError: the file cannot be read, has no column of paths, or not one usable row.
    """
    zipped = path.suffix.lower() == ".gz"
    suffix = Path(path.stem).suffix.lower() if zipped else path.suffix.lower()
    name = f"{what} {path}"
    text = _read_text(path, zipped, name)
    try:
        if suffix in (".jsonl", ".json"):
            table = _read_json_lines(text, name)
        else:
            with cells_of_any_length():
                table = _read_delimited(text, suffix, name)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error
    if table.rows and all(row.problem for row in table.rows):
        first = table.rows[0]
        raise UserError(f"{name}: no row can be used; line {first.line}: {first.problem}")
    return table


def _read_text(path: Path, zipped: bool, name: str) -> str:
    """The decoded content; bytes that are not UTF-8 are kept as lone surrogates."""
    try:
        data = gzip.decompress(path.read_bytes()) if zipped else path.read_bytes()
        for mark, encoding in _MARKS:
            if data.startswith(mark):
                return data.decode(encoding, "surrogatepass")
    except (OSError, EOFError) as error:
        raise UserError(f"{name}: {getattr(error, 'strerror', None) or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is damaged: {error}: save it as UTF-8") from error
    start = data[:4096]
    if start.count(0) > len(start) / 4:
        raise UserError(f"{name} is not UTF-8 but UTF-16, or damaged: save it as UTF-8")
    return data.decode("utf-8-sig", "surrogateescape")


def _read_delimited(text: str, suffix: str, name: str) -> Table:
    lines = list(io.StringIO(text, newline=""))
    start = next((n for n, line in enumerate(lines) if line.strip()), len(lines))
    given = _SEPARATOR.fullmatch(lines[start]) if start < len(lines) else None
    usual = "\t" if suffix == ".tsv" else ","
    order = given[1] if given else usual + _DELIMITERS.replace(usual, "")
    start += bool(given)
    headers = {d: first_record(lines, start, Dialect(d)) for d in order}
    delimiter, best = usual, 0
    for candidate, header in headers.items():
        used = columns.understand(header.cells)
        row = any(cell.strip().lower().endswith(AUDIO_SUFFIXES) for cell in header.cells)
        score = len(used) if not row and ("path" in used or "id" in used) else 0
        if score > best:
            delimiter, best = candidate, score
    if best:
        header = headers[delimiter]
        used = columns.understand(header.cells)
        used.setdefault("path", used.get("id", []))
        records = read_records(lines, header.stop, delimiter, len(header.cells))
        _say(name, columns.not_understood(header.cells, used, _sample(records)))
    else:
        delimiter, records, used = _without_header(lines, start, headers, name)
    decimal_comma = delimiter == ";"
    return Table(tuple(used), [_row(record, used, decimal_comma) for record in records])


def _sample(records: Sequence[Record]) -> list[list[str]]:
    return [record.cells for record in itertools.islice(records, _SAMPLE)]


def _row(record: Record, used: dict[str, list[int]], decimal_comma: bool) -> Row:
    found = record.cells
    cells = {}
    for name, places in used.items():
        values = (found[place].strip() for place in places if place < len(found))
        cells[name] = next(filter(None, values), "")
        if decimal_comma and name in ("start", "end", "duration"):
            cells[name] = cells[name].replace(",", ".")
    return Row(record.line, columns.canonical(cells), record.problem or columns.row_flaw(cells))


def _without_header(
    lines: list[str], start: int, headers: dict[str, Record], name: str
) -> tuple[str, list[Record], dict[str, list[int]]]:
    """Delimiter, rows and columns of a table whose first line is a row.

    Raises:
        UserError: it is not, or its columns are not clear.
    """
    found = None
    for delimiter, first in headers.items():
        cells = first.cells
        if len(cells) == 1 and any(len(other.cells) > 1 for other in headers.values()):
            continue
        width, same = most_common_width(lines, start, delimiter, _SAMPLE)
        if not cells or not _names_recording(cells[0], delimiter, width):
            continue
        if found is None or (width > 1 and (same, width) > found[:2]):
            found = (same, width, delimiter)
    if found is None:
        cells = next(iter(headers.values())).cells
        raise UserError(
            f"{name}: no column 'path' in its header, found {', '.join(map(repr, cells)) or 'none'}"
            f"; understood are {', '.join(columns.NAMES['path'])}; a table without header needs "
            f"the paths of recordings in its first column{_hint(lines, start, headers)}"
        )
    _, width, delimiter = found
    records = read_records(lines, start, delimiter, width)
    second, third = ([r.cells[n] for r in records if len(r.cells) > n] for n in (1, 2))
    if width == 1:
        used = {"path": [0]}
    elif width == 2:
        used = {"path": [0], "text": [1]}
    elif width == 3 and _are_speakers(second) and any(" " in cell.strip() for cell in third):
        used = {"path": [0], "speaker": [1], "text": [2]}
    elif width == 3 and delimiter == "|":  # LJSpeech: as written, as spoken
        used = {"path": [0], "text": [2, 1]}
    else:
        raise UserError(
            f"{name} has no header, and its {width} columns are not clear, found "
            f"{', '.join(map(repr, records[0].cells))}: add a first line such as path,speaker,text"
        )
    _say(name, [f"no header: columns are read as {', '.join(used)}"])
    return delimiter, records, used


def _names_recording(cell: str, delimiter: str, width: int) -> bool:
    cell = cell.strip(" ")  # a tab may be the delimiter
    if cell.lower().endswith(AUDIO_SUFFIXES):
        return True
    # LJSpeech and its kin: ID|TEXT|NORMALISED, of files wavs/ID.wav.
    return delimiter == "|" and width in (2, 3) and bool(re.fullmatch(r"[^\s.]*\d[^\s.]*", cell))


def _are_speakers(cells: Sequence[str]) -> bool:
    names = [cell.strip() for cell in cells]
    return len(set(names)) < max(2, len(names)) and not any(re.search(r"\s", n) for n in names)


def _hint(lines: list[str], start: int, headers: dict[str, Record]) -> str:
    """Names the column that holds paths under an unknown name."""
    for delimiter, header in headers.items():
        row = first_record(lines, header.stop, Dialect(delimiter)) if header.cells else None
        for title, cell in zip(header.cells, row.cells if row else (), strict=False):
            if cell.strip().lower().endswith(AUDIO_SUFFIXES):
                return f"; column {title!r} holds paths: name it 'path'"
    return ""


def _say(name: str, sentences: Sequence[str]) -> None:
    for sentence in sentences:
        print(f"warning: {name}: {sentence}", file=sys.stderr)


def _read_json_lines(text: str, name: str) -> Table:
    """Rows of JSON objects, one on a line, or of one array of objects."""
    rows = []
    found: dict[str, None] = {}  # in order
    sample: list[dict[str, Any]] = []
    for line, value in _json_values(text):
        if isinstance(value, str):
            rows.append(Row(line, {}, value))
            continue
        # Names of columns without case: the first of two that differ only in it.
        row = {columns.normalized(key): value[key] for key in reversed(value)}
        cells, problem = _json_cells(row)
        found.update(dict.fromkeys(reversed(row)))
        if len(sample) < _SAMPLE:
            sample.append(row)
        rows.append(Row(line, columns.canonical(cells), problem or columns.row_flaw(cells)))
    header = list(found)
    used = columns.understand(header)
    texts = [[str(row[key]) if isinstance(row.get(key), str) else "" for key in header]
             for row in sample]  # fmt: skip
    _say(name, columns.not_understood(header, used, texts))
    return Table(tuple(used), rows)


def _json_values(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Line number and object, or what is wrong with the line."""
    if text.lstrip().startswith("["):
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ValueError(f"not a JSON array: {error}") from error
        for number, value in enumerate(values, 1):
            yield number, value if isinstance(value, dict) else f"item {number} is not an object"
        return
    for number, line in enumerate(io.StringIO(text, newline="\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, f"not a JSON object on one line: {error}"
            continue
        yield number, value if isinstance(value, dict) else "not a JSON object"


def _json_cells(row: dict[str, Any]) -> tuple[dict[str, str], str]:
    """Cells, and the problem with them."""
    header = list(row)
    cells, problem = {}, ""
    for name, places in _places(tuple(row)).items():
        values = [row[header[place]] for place in places]
        usable = [v for v in values if isinstance(v, str | int | float) and not _is_bool(v)]
        cells[name] = next(filter(None, (str(value).strip() for value in usable)), "")
        odd = next((v for v in values if v is not None and v not in usable), None)
        if not cells[name] and odd is not None:
            problem = problem or f"{name} is a {type(odd).__name__}, not a text or number"
    return cells, problem


# Nearly all rows of a table have the same keys.
@functools.lru_cache(maxsize=64)
def _places(header: tuple[str, ...]) -> dict[str, list[int]]:
    return columns.understand(header)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)
