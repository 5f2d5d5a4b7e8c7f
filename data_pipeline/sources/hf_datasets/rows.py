"""Rows of Parquet and Arrow files: what is said of a recording, and its encoded audio.

A file is read a row group (Parquet) or a record batch (Arrow, mapped into memory) at a time;
listing reads no audio.
"""

import functools
import threading
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from data_pipeline.audio.errors import AudioError
from data_pipeline.runtime.contents import FileState, file_state
from data_pipeline.runtime.errors import UserError
from data_pipeline.sources.hf_datasets.files import is_remote, network, open_remote

# Readers of files are not made for several threads, nor should each of these read a group.
_reading = threading.Lock()


class Block(NamedTuple):
    """Consecutive rows.

    Attributes:
        first: number of the first row in its file.
        rows: values by column, those of `columns` of `blocks`.
        stored: whether the audio of each row is in the file.
        paths: of audio that is in a file of its own, "" without.
    """

    first: int
    rows: list[dict[str, Any]]
    stored: list[bool]
    paths: list[str]


def import_pyarrow() -> Any:
    """Imports `pyarrow` with its readers.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            f"datasets of Parquet and Arrow files need pyarrow ({error}): "
            "pip install 'gpst_jax[datasets]'"
        ) from error
    return pyarrow


def schema_of(path: str) -> Any:
    """The columns of a file.

    Raises:
        AudioError: it cannot be read.
    """
    return _open(path, file_state(path)).schema


def blocks(path: str, column: str, columns: Sequence[str]) -> Iterator[Block]:
    """Yields all rows of a file without reading audio that is in it.

    Args:
        path: a Parquet or Arrow file; hf:// is a Parquet file on the hub.
        column: of the audio.
        columns: that are read besides.

    Raises:
        AudioError: the file, or its rows from some on, cannot be read.
    """
    pa = import_pyarrow()
    file = _open(path, file_state(path))
    first = 0
    for number in range(len(file.starts) - 1):
        try:
            with network(path):
                block = file.block(number, first, column, columns)
        except (pa.ArrowException, OSError) as error:
            raise AudioError(
                f"rows from {first} on cannot be read: {_line(error)}", path
            ) from error
        yield block
        first += len(block.rows)


def row_bytes(path: str, row: int, column: str) -> bytes:
    """The encoded audio of a row: the content of a file.

    Raises:
        AudioError: it cannot be read, or there is none.
    """
    pa = import_pyarrow()
    file = _open(path, file_state(path))
    number = sum(start <= row for start in file.starts) - 1
    if not 0 <= row < file.starts[-1]:
        raise AudioError(f"has no row {row}", path)
    try:
        with _reading, network(path):
            held = _audio(path, file_state(path), number, column)
        value = held[row - file.starts[number]].as_py()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise AudioError(f"row {row}: {_line(error)}", path) from error
    if value is None:
        raise AudioError(f"row {row}: no audio in {column}", path)
    return value


class _Parquet:
    def __init__(self, pa: Any, path: str):
        self._pa = pa
        self._file = pa.parquet.ParquetFile(open_remote(path) if is_remote(path) else path)
        self.schema = self._file.schema_arrow
        meta = self._file.metadata
        counts = [meta.row_group(number).num_rows for number in range(meta.num_row_groups)]
        self.starts = [0, *accumulate(counts)]

    def audio(self, number: int, column: str) -> Any:
        table = self._file.read_row_group(number, columns=[_leaf(self._pa, self.schema, column)])
        return _held(self._pa, table[column])

    def block(self, number: int, first: int, column: str, columns: Sequence[str]) -> Block:
        nested = _is_struct(self._pa, self.schema, column)
        beside = [f"{column}.path"] if nested else []
        group = self._file.read_row_group(number, columns=[*columns, *beside])
        count = self.starts[number + 1] - self.starts[number]
        stored = self._stored(number, count, column)
        paths = [""] * count
        if nested and column in group.column_names and not all(stored):
            paths = [(value or {}).get("path") or "" for value in group[column].to_pylist()]
        return _block(group, columns, first, count, stored, paths)

    def _stored(self, number: int, count: int, column: str) -> list[bool]:
        """Whether rows hold audio: by the statistics, which writers may leave out."""
        leaf = _leaf(self._pa, self.schema, column)
        group = self._file.metadata.row_group(number)
        for index in range(group.num_columns):
            chunk = group.column(index)
            if chunk.path_in_schema == leaf and chunk.statistics is not None:
                nulls = chunk.statistics.null_count
                if nulls in (0, count):
                    return [nulls == 0] * count
        return self._pa.compute.is_valid(self.audio(number, column)).to_pylist()


class _Arrow:
    def __init__(self, pa: Any, path: str):
        self._pa = pa
        source = pa.memory_map(path)
        try:
            reader = pa.ipc.open_stream(source)
        except pa.ArrowInvalid:
            source.seek(0)
            reader = pa.ipc.open_file(source)
        table = reader.read_all()
        self.schema = table.schema
        self._batches = table.to_batches()
        self.starts = [0, *accumulate(batch.num_rows for batch in self._batches)]

    def audio(self, number: int, column: str) -> Any:
        return _held(self._pa, self._batches[number].column(column))

    def block(self, number: int, first: int, column: str, columns: Sequence[str]) -> Block:
        batch = self._batches[number]
        stored = self._pa.compute.is_valid(self.audio(number, column)).to_pylist()
        paths = [""] * batch.num_rows
        if _is_struct(self._pa, self.schema, column) and not all(stored):
            found = self._pa.compute.struct_field(batch.column(column), "path")
            paths = [value or "" for value in found.to_pylist()]
        return _block(batch, columns, first, batch.num_rows, stored, paths)


def _block(
    held: Any,
    columns: Sequence[str],
    first: int,
    count: int,
    stored: list[bool],
    paths: list[str],
) -> Block:
    rows = held.select(list(columns)).to_pylist() if columns else [{} for _ in range(count)]
    return Block(first, rows, stored, paths)


def _held(pa: Any, column: Any) -> Any:
    """The bytes of a column of audio: its own, or those of its structs."""
    if pa.types.is_struct(column.type):
        return pa.compute.struct_field(column, "bytes")
    return column


def _leaf(pa: Any, schema: Any, column: str) -> str:
    return f"{column}.bytes" if _is_struct(pa, schema, column) else column


def _is_struct(pa: Any, schema: Any, column: str) -> bool:
    return pa.types.is_struct(schema.field(column).type)


# The state tells a file from another that has taken its name.
@functools.lru_cache(maxsize=4)
def _open(path: str, state: FileState) -> Any:
    del state
    pa = import_pyarrow()
    is_parquet = path.endswith(".parquet")
    if is_remote(path) and not is_parquet:
        raise UserError(f"{path} is no Parquet file: leave out streaming=true")
    try:
        with network(path):
            return (_Parquet if is_parquet else _Arrow)(pa, path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise AudioError(f"not a Parquet or Arrow file, or truncated: {_line(error)}", path) from (
            error
        )


# Rows are usually read one after the other; where threads share them, they are a few apart.
@functools.lru_cache(maxsize=2)
def _audio(path: str, state: FileState, number: int, column: str) -> Any:
    return _open(path, state).audio(number, column)


def _line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
