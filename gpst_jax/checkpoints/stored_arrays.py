"""Arrays of a checkpoint in its files: stored in chunks, and read in pieces without a device."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
import tensorstore

from gpst_jax.checkpoints import checksums, places
from gpst_jax.parallel.sharding import path_string

CHUNK_BYTES = 32 << 20
_READERS = 4  # of arrays at a time, a chunk of each: in a bucket each costs several answers


def storage() -> ocp.Context:
    """Storage options: large arrays in chunks of rows, so that slices of them can be read."""

    def options(path: Any, value: Any) -> Any:
        del path
        size = int(np.prod(np.shape(value))) * np.dtype(value.dtype).itemsize
        kind = ocp.options.ArrayOptions.Saving.StorageOptions
        return kind(chunk_byte_size=CHUNK_BYTES, shard_axes=(0,)) if size > CHUNK_BYTES else None

    context = ocp.Context()
    context.array.saving.scoped_storage_options_creator = options
    return context


def context() -> Any:
    """Settings with no cache and one chunk decoded at a time: memory for what is asked for only."""
    return tensorstore.Context(
        {
            "cache_pool": {"total_bytes_limit": 0},
            "data_copy_concurrency": {"limit": 1},
            "file_io_concurrency": {"limit": 1},
        }
    )


def open_array(item: Path, path: str, settings: Any) -> Any:
    """The TensorStore of an array.

    Args:
        item: directory of an item of a checkpoint, such as `params`.
        path: of the array in it, its parts joined by `/`.
        settings: made by `context`.

    Raises:
        ValueError: there is no such array.
    """
    store = {
        "driver": "ocdbt",
        "base": places.kvstore(item),
        "path": path.replace("/", ".") + "/",
    }
    for driver in ("zarr3", "zarr"):
        with contextlib.suppress(ValueError):
            return tensorstore.open(
                {"driver": driver, "kvstore": store}, open=True, read=True, context=settings
            ).result()
    raise ValueError("not an array")


def row_groups(shape: Sequence[int], itemsize: int, budget: int) -> Iterator[tuple[int, int]]:
    """Splits a leading axis into ranges of at most `budget` bytes, at least one row each."""
    size = itemsize * math.prod(shape[1:])
    count = max(1, budget // max(size, 1))
    for first in range(0, shape[0], count):
        yield first, min(first + count, shape[0])


def stored_checksum(array: Any, budget: int) -> int:
    """What `checksums.checksums` gives for an array, read in pieces of `budget` bytes."""
    itemsize, total = np.dtype(array.dtype.numpy_dtype).itemsize, 0
    for first, stop in row_groups(array.shape or (1,), itemsize, budget):
        rows = (array[first:stop] if array.shape else array).read().result()
        total += checksums.rows_checksum(np.asarray(rows), first)
    return total % 2**32


def check_item(item: Path, metadata: Any, expected: Mapping[str, Sequence[Any]]) -> None:
    """Compares what an item holds with what was saved; each process reads its share of the arrays.

    Args:
        item: its directory.
        metadata: tree whose leaves have a shape, as it is stored.
        expected: shape, dtype and checksum of each array by its path.

    Raises:
        ValueError: they differ.
        OSError: the files cannot be read.
    """
    leaves = jax.tree.leaves_with_path(metadata)
    shapes = {path_string(path): list(leaf.shape) for path, leaf in leaves}
    if shapes != {path: list(array[0]) for path, array in expected.items()}:
        raise ValueError(f"{item.name!r} holds other arrays than were written")
    settings, mine = context(), sorted(expected)[jax.process_index() :: jax.process_count()]

    def read(path: str) -> int:
        return stored_checksum(open_array(item, path, settings), CHUNK_BYTES)

    with ThreadPoolExecutor(_READERS) as readers:
        for path, value in zip(mine, readers.map(read, mine), strict=True):
            if value != expected[path][2]:
                raise ValueError(f"array {path!r} of {item.name!r} is not what was written")
