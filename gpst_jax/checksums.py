"""Checksums of arrays, computed where the arrays are.

They travel in a checkpoint's record and are computed again after a restore, so that a wrong value
is found whatever made it wrong: the disk, the file format, or the way to another mesh. Sums of
integers do not depend on their order, so any sharding gives the same checksum.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gpst_jax.sharding import path_string

# Odd constants of which each dimension takes the next; they mix positions into weights.
_MIX = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1, 0xD3A2646D)


def checksums(tree: Any) -> dict[str, int]:
    """The checksum of every leaf by its path.

    It is the sum, modulo 2^32, of the leaf's words times odd weights that depend on the position.
    One changed bit always changes it; any other damage goes unseen with a chance of 2^-32.

    Args:
        tree: of jax arrays, on one device or sharded; every process must call this.
    """
    leaves = jax.tree.leaves_with_path(tree)
    if not leaves:
        return {}
    sums = np.asarray(_program(_replicated(leaves[0][1]))([leaf for _, leaf in leaves]))
    return {path_string(path): int(value) for (path, _), value in zip(leaves, sums, strict=True)}


def rows_checksum(rows: np.ndarray, first: int) -> int:
    """What the rows of a leading axis, from row `first` on, add to the checksum of their array.

    The sum over all rows, modulo 2^32, is what `checksums` gives for the whole.
    """
    return int(_rows_program(rows, jnp.uint32(first)))


def differences(expected: Mapping[str, int], found: Mapping[str, int]) -> list[str]:
    """The paths whose checksums differ, or that stand on one side only."""
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


@jax.jit
def _rows_program(rows: jax.Array, first: jax.Array) -> jax.Array:
    return _checksum(rows, first)


def _checksum(array: jax.Array, first: jax.Array | int = 0) -> jax.Array:
    word = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    words = jax.lax.bitcast_convert_type(array, word).astype(jnp.uint32)
    # Positions by dimension: flattening would gather a sharded array on every device.
    position = jnp.zeros(words.shape, jnp.uint32)
    for dimension in range(words.ndim):
        index = jax.lax.broadcasted_iota(jnp.uint32, words.shape, dimension)
        index += jnp.uint32(first) if dimension == 0 else 0
        position += index * jnp.uint32(_MIX[dimension % len(_MIX)])
    mixed = (position ^ (position >> 15)) * jnp.uint32(_MIX[0])
    weights = (mixed ^ (mixed >> 13)) | jnp.uint32(1)
    return jnp.sum(words * weights, dtype=jnp.uint32)
