"""Reads the files in which the wandb library keeps a run, until and after it is uploaded.

A `.wandb` file is a log in the format of LevelDB behind a header of its own: blocks of 32 KiB, in
them records of checksum (4 bytes), length (2), kind (1) and data, and a record that does not fit is
continued in the next block. The data are `Record` messages of wandb's protocol. The library itself
has no reader any more; its program `wandb sync` has one.
"""

import importlib
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_HEADER = struct.Struct("<4sHB")  # `:W&B`, a number, the version
_RECORD = struct.Struct("<IHB")
_BLOCK = 32768
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def history(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(step, values by name) of the rows in a file, as JSON values.

    Reading ends at the first record that a kill has cut short. A value of several fields, as a
    picture, has a name with dots for each: `preview/0._type`.
    """
    messages = importlib.import_module("wandb.proto.wandb_internal_pb2")
    for data, _ in _records(path.read_bytes()):
        record = messages.Record.FromString(data)
        if record.WhichOneof("record_type") == "history":
            row = {
                ".".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }
            yield int(record.history.step.num), row


def last_step(directory: Path, run_id: str) -> int:
    """The greatest step of a run in the files of all its starts; -1 for none."""
    return max(
        (step for path in _files(directory, run_id) for step, _ in history(path)), default=-1
    )


def trim(directory: Path, run_id: str, current: Path) -> None:
    """Ends the files of earlier starts with their last whole record.

    `wandb sync` takes a file up to a record that a kill has cut short, and then none of the files
    after it.

    Args:
        directory: of all starts.
        run_id: of the run.
        current: directory of this start, which is being written.
    """
    for path in _files(directory, run_id):
        if path.parent != current:
            data = path.read_bytes()
            end = max((end for _, end in _records(data)), default=_HEADER.size)
            if end < len(data):
                os.truncate(path, end)


def _files(directory: Path, run_id: str) -> list[Path]:
    return sorted(directory.glob(f"*run-*/run-{run_id}.wandb"))


def _records(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Whole records, and where each ends."""
    position, parts = _HEADER.size, b""
    while position + _RECORD.size <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _RECORD.size:  # filled up with zeros
            position += left
            continue
        _, length, kind = _RECORD.unpack_from(data, position)
        position += _RECORD.size
        piece = data[position : position + length]
        position += length
        if len(piece) < length or kind not in (_WHOLE, _FIRST, _MIDDLE, _LAST):
            return
        parts = piece if kind in (_WHOLE, _FIRST) else parts + piece
        if kind in (_WHOLE, _LAST):
            yield parts, position
