"""Checksums of arrays, computed on the devices that hold them.

They are stored in a checkpoint's record and computed again after a restore, so that a wrong value
is detected whatever caused it: the disk, the file format, or resharding to another mesh. Sums of
integers do not depend on their order, so any sharding gives the same checksum.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gpst_jax.parallel.sharding import path_string

# Odd constants of which each dimension takes the next; they mix positions into weights.
_MIX = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1, 0xD3A2646D)
_PIECE = 1 << 16  # elements per block on the host, which fit into the CPU's cache


def checksums(tree: Any) -> dict[str, int]:
    """The checksum of every leaf by its path.

    It is the sum, modulo 2^32, of the leaf's words times odd weights that depend on the position.
    One flipped bit always changes it; other corruption goes undetected with probability 2^-32.

    Args:
        tree: of jax arrays, on one device or sharded; every process must call this.
    """
    leaves = jax.tree.leaves_with_path(tree)
    if not leaves:
        return {}
    sums = np.asarray(_program(_replicated(leaves[0][1]))([leaf for _, leaf in leaves]))
    return {path_string(path): int(value) for (path, _), value in zip(leaves, sums, strict=True)}


def describe(tree: Any) -> dict[str, tuple[list[int], str, int]]:
    """Shape, dtype and checksum of each array by its path."""
    sums = checksums(tree)
    leaves = {path_string(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
    return {
        path: (list(leaf.shape), np.dtype(leaf.dtype).name, sums[path])
        for path, leaf in leaves.items()
    }


def rows_checksum(rows: np.ndarray, first: int) -> int:
    """Contribution of some rows of the leading axis, from row `first` on, to an array's checksum.

    The sum over all rows, modulo 2^32, is the checksum that `checksums` gives. Runs in NumPy, in
    blocks that fit into the cache: nothing is compiled, and the rows are not copied.
    """
    return _host_checksum(rows, (first, *(0,) * (rows.ndim - 1)) if rows.ndim else ())


def _host_checksum(array: np.ndarray, offsets: tuple[int, ...]) -> int:
    if array.size > _PIECE:
        axis = next(axis for axis, size in enumerate(array.shape) if size > 1)
        middle = array.shape[axis] // 2
        low, high = np.split(array, [middle], axis)
        shifted = (*offsets[:axis], offsets[axis] + middle, *offsets[axis + 1 :])
        return _host_checksum(low, offsets) + _host_checksum(high, shifted)
    word = {1: np.uint8, 2: np.uint16}.get(array.dtype.itemsize, np.uint32)
    words = np.ascontiguousarray(array).view(word).astype(np.uint32)
    position = np.zeros((1,) * array.ndim, np.uint32)
    for axis, (size, offset) in enumerate(zip(array.shape, offsets, strict=True)):
        index = (np.arange(size, dtype=np.uint32) + np.uint32(offset)) * np.uint32(_mix(axis))
        position = position + index.reshape((-1,) + (1,) * (array.ndim - 1 - axis))
    mixed = (position ^ (position >> np.uint32(15))) * np.uint32(_MIX[0])
    weights = (mixed ^ (mixed >> np.uint32(13))) | np.uint32(1)
    return int((words * weights).sum(dtype=np.uint64)) % 2**32


def differences(expected: Mapping[str, int], found: Mapping[str, int]) -> list[str]:
    """The paths whose checksums differ, or that only one side has."""
    return sorted(
        path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path)
    )


def _replicated(leaf: jax.Array) -> NamedSharding | None:
    where = leaf.sharding
    return NamedSharding(where.mesh, PartitionSpec()) if isinstance(where, NamedSharding) else None


@functools.cache
def _program(out_sharding: NamedSharding | None) -> Any:
    def sums(leaves):
        return jnp.stack([_checksum(leaf) for leaf in leaves])

    return jax.jit(sums, out_shardings=out_sharding)


def _mix(dimension: int) -> int:
    return _MIX[dimension % len(_MIX)]


def _checksum(array: jax.Array) -> jax.Array:
    word = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    words = jax.lax.bitcast_convert_type(array, word).astype(jnp.uint32)
    # Positions by dimension: flattening would gather a sharded array on every device.
    position = jnp.zeros(words.shape, jnp.uint32)
    for dimension in range(words.ndim):
        index = jax.lax.broadcasted_iota(jnp.uint32, words.shape, dimension)
        position += index * jnp.uint32(_mix(dimension))
    mixed = (position ^ (position >> 15)) * jnp.uint32(_MIX[0])
    weights = (mixed ^ (mixed >> 13)) | jnp.uint32(1)
    return jnp.sum(words * weights, dtype=jnp.uint32)
