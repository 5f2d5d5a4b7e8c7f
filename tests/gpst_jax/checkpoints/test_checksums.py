"""Checksums of arrays: they depend on every bit, and on no sharding."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from gpst_jax.checkpoints import checksums


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
def test_every_bit_and_position_counts(dtype):
    rng = np.random.default_rng(0)
    array = jnp.asarray(rng.integers(0, 2, (3, 5)), dtype)
    plain = checksums.checksums({"a": array})["a"]
    other = {"bool": lambda x: ~x}.get(dtype, lambda x: x + 1)
    for i, j in itertools.product(range(3), range(5)):
        assert checksums.checksums({"a": array.at[i, j].set(other(array[i, j]))})["a"] != plain
    values = jnp.asarray(np.arange(15).reshape(3, 5) % 2, dtype)
    swapped = values.at[0, 0].set(values[0, 1]).at[0, 1].set(values[0, 0])
    assert checksums.checksums({"a": values}) != checksums.checksums({"a": swapped})


def test_single_bits_of_a_float():
    words = np.random.default_rng(1).integers(0, 2**32, 6, dtype=np.uint32)
    plain = checksums.checksums([jnp.asarray(words).view(jnp.float32)])
    for place, bit in itertools.product(range(6), range(32)):
        flipped = words.copy()
        flipped[place] ^= np.uint32(1 << bit)
        assert checksums.checksums([jnp.asarray(flipped).view(jnp.float32)]) != plain


def test_sharding_does_not_matter():
    mesh = jax.make_mesh((4, 2), ("a", "b"))
    tree = {"w": jnp.arange(64.0).reshape(8, 8) / 7, "step": jnp.int32(3)}
    plain = checksums.checksums(tree)
    for spec in (PartitionSpec("a", "b"), PartitionSpec("b"), PartitionSpec(None, ("a", "b"))):
        placed = {
            "w": jax.device_put(tree["w"], NamedSharding(mesh, spec)),
            "step": jax.device_put(tree["step"], NamedSharding(mesh, PartitionSpec())),
        }
        assert checksums.checksums(placed) == plain


def test_differences_name_the_paths():
    assert checksums.differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == ["b", "c"]
    assert checksums.differences({"a": 1}, {"a": 1}) == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8", "bool"])
def test_rows_add_up_to_their_array(dtype, monkeypatch):
    array = np.random.default_rng(2).integers(0, 2, (7, 3, 20)).astype(jnp.dtype(dtype))
    whole = checksums.checksums({"a": jnp.asarray(array)})["a"]
    for size, piece in ((1, 1000), (3, 1000), (3, 10), (7, 10)):
        monkeypatch.setattr(checksums, "_PIECE", piece)
        parts = [checksums.rows_checksum(array[i : i + size], i) for i in range(0, 7, size)]
        assert sum(parts) % 2**32 == whole
    assert checksums.rows_checksum(array[1:], 0) != checksums.rows_checksum(array[1:], 1)
    scalar = np.asarray(array[0, 0, 0])
    expected = checksums.checksums({"a": jnp.asarray(scalar)})["a"]
    assert checksums.rows_checksum(scalar, 0) == expected
