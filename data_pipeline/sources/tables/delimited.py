"""Records of delimited text: strict parsing that loses one row to a wrong quotation mark.

A quotation mark that opens a cell and is not closed would swallow the rows behind it. Such a row is
one with a problem here, and reading goes on at the next line.
"""

import csv
import itertools
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from data_pipeline.audio.io import AUDIO_SUFFIXES

_UNMATCHED = (
    "unmatched quotation mark: the cell that it opens does not end in its row; close it, or double "
    "a mark that is text"
)


class Dialect(NamedTuple):
    """How cells are separated, quoted and escaped."""

    delimiter: str
    quoted: bool = True
    escape: str | None = None


class Record(NamedTuple):
    """The cells of a row.

    Attributes:
        line: number of its first line, from 1.
        stop: index of the line behind it.
        cells: as written, without quoting.
        problem: why they cannot be used, "" if they can.
    """

    line: int
    stop: int
    cells: list[str]
    problem: str = ""


def first_record(lines: list[str], start: int, dialect: Dialect) -> Record:
    """The first record that is not blank, without trailing empty cells; no cells if malformed."""
    for record in _records(lines, start, dialect, 0):
        cells = _trimmed(record.cells)
        if record.problem:
            break
        if cells:
            return record._replace(cells=cells)
    return Record(start + 1, start + 1, [])


def most_common_width(lines: list[str], start: int, delimiter: str, sample: int) -> tuple[int, int]:
    """The number of cells that most of the first records have, if it is not one, and of these."""
    records = itertools.islice(_records(lines, start, Dialect(delimiter), 0), sample)
    widths = Counter(len(_trimmed(record.cells)) for record in records)
    several = [(count, width) for width, count in widths.items() if width > 1]
    count, width = max(several, default=(widths[1], 1))
    return width, count


def read_records(lines: list[str], start: int, delimiter: str, width: int) -> list[Record]:
    """All records that are not blank, in the dialect that fits them best.

    Args:
        lines: with their ends.
        start: index of the first line.
        delimiter: of cells.
        width: number of columns; more cells are a problem, empty ones behind them are not.
    """
    records = _parse(lines, start, Dialect(delimiter), width)
    problems = any(record.problem for record in records)
    if _may_escape(lines, start, delimiter):
        escaped = _parse(lines, start, Dialect(delimiter, escape="\\"), width)
        fits = not any(record.problem or len(record.cells) < width for record in escaped)
        quotes = any('"' in line.replace('\\"', "") for line in lines[start:])
        if fits and (problems or not quotes):
            return escaped
    if problems and delimiter == "|":
        # LJSpeech's texts may end within a quotation.
        return _parse(lines, start, Dialect(delimiter, quoted=False), width)
    return records


def _may_escape(lines: list[str], start: int, delimiter: str) -> bool:
    """Whether every backslash stands before what a writer that does not quote must escape."""
    if not any("\\" in line for line in itertools.islice(lines, start, None)):
        return False
    body = "".join(lines[start:]).rstrip("\r\n")
    # Before \r\n a backslash is text: writers that escape put one before each of the two.
    special = rf'(?:["\n{re.escape(delimiter)}]|\r(?!\n))'
    rest = re.sub(rf"\\(\\|{special})", "", body)
    return "\\" not in rest and bool(re.search(rf"\\{special}", body))


def _parse(lines: list[str], start: int, dialect: Dialect, width: int) -> list[Record]:
    records = []
    for record in _records(lines, start, dialect, width):
        cells = record.cells
        if len(cells) > width:
            cells = cells[:width] + _trimmed(cells[width:])
        if not record.problem and len(cells) > width:
            reason = f"more cells than columns ({len(cells)} of {width}): quote texts that hold "
            reason += {",": "commas", "\t": "tabs"}.get(dialect.delimiter, dialect.delimiter)
            record = record._replace(problem=reason)
        if record.problem or _trimmed(cells):
            records.append(record._replace(cells=cells))
    return records


def _records(lines: list[str], start: int, dialect: Dialect, width: int) -> Iterator[Record]:
    """Strictly parsed records; after a malformed one, parsing starts again at the next line."""
    while start < len(lines):
        first = start
        reader = _reader(map(lines.__getitem__, range(first, len(lines))), dialect)
        while True:
            start = first + reader.line_num
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error:
                yield _repaired(lines[start], start, dialect, width)
                start += 1
                break
            stop = first + reader.line_num
            if stop > start + 1 and _swallows_rows(lines[start:stop], dialect, width):
                yield Record(start + 1, start + 1, [], _UNMATCHED)
                start += 1
                break
            yield Record(start + 1, stop, cells)


def _reader(lines: Iterable[str], dialect: Dialect, strict: bool = True):
    return csv.reader(
        lines,
        delimiter=dialect.delimiter,
        quoting=csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE,
        escapechar=dialect.escape,
        skipinitialspace=True,
        strict=strict,
    )


@contextmanager
def cells_of_any_length() -> Iterator[None]:
    """Lifts the limit of the `csv` module, which is one of the process."""
    limit = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _repaired(line: str, index: int, dialect: Dialect, width: int) -> Record:
    """A line whose quoting is wrong, if it can be read in one way only: `"so" she said`."""
    # Common Voice, LJSpeech and others write marks as text.
    literal = dialect._replace(quoted=dialect.delimiter not in "\t|")
    # A cell still open at the end takes in the second line.
    closed = len(list(_reader([line, "end\n"], dialect, strict=False))) == 2
    cells = next(_reader([line], literal, strict=False))
    if line.count('"') % 2 or not closed:
        return Record(index + 1, index + 1, [], _UNMATCHED)
    if len(cells) != width:
        reason = "text behind a closing quotation mark: double the marks that are text"
        return Record(index + 1, index + 1, [], reason)
    return Record(index + 1, index + 1, cells)


def _swallows_rows(lines: list[str], dialect: Dialect, width: int) -> bool:
    """Whether a record of several lines holds further rows, as behind an unmatched mark."""
    split = [[cell.strip(' "\r\n') for cell in line.split(dialect.delimiter)] for line in lines]
    full = [cells for cells in split if len(cells) >= max(1, width)]
    recordings = [any(c.lower().endswith(AUDIO_SUFFIXES) for c in cells) for cells in full]
    if any(recordings):
        return sum(recordings) > 1
    return len(full) > 1 and width > 1


def _trimmed(cells: list[str]) -> list[str]:
    """Without empty cells at the end."""
    stop = len(cells)
    while stop and not cells[stop - 1].strip():
        stop -= 1
    return cells[:stop]
