"""Records on disk: read back as written, also by TFDS without TensorFlow; corruption is named."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.datasets import token_records
from data_pipeline.datasets.token_records import (
    Record,
    RecordError,
    RecordReader,
    ShardWriter,
    TokenReader,
)
from data_pipeline.runtime.errors import UserError

CODEBOOKS = 3
LENGTHS = [3, 0, 4]  # an empty shard in the middle: all of its recordings failed


def _record(number: int, num_units: int | None = None) -> Record:
    random = np.random.default_rng(number)
    size = num_units or 20 + number
    return Record(
        id=f"größe/{number}",
        source=f"größe/{number}.wav",
        speaker=f"speaker {number % 2}",
        language="de",
        text=None if number % 2 else "",
        start=1.5,
        end=2.25,
        units=random.integers(0, 2**16, size).astype(np.uint16),
        codes=random.integers(0, 2**16, (CODEBOOKS, 2 * size)).astype(np.uint16),
    )


def _write(directory: Path, lengths: list[int], num_units: int | None = None) -> None:
    directory.mkdir(exist_ok=True)
    number = total = 0
    for shard, length in enumerate(lengths):
        path = directory / token_records.shard_name("train", shard, len(lengths))
        with ShardWriter(path, CODEBOOKS) as writer:
            for _ in range(length):
                writer.write(_record(number, num_units))
                number += 1
        total += writer.num_bytes
    token_records.write_metadata(directory, CODEBOOKS, {"train": lengths}, {"train": total})


def _assert_equal(found: Record, expected: Record) -> None:
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)
    assert found.units.dtype == found.codes.dtype == np.uint16


def test_records_are_read_back_in_any_order(tmp_path) -> None:
    _write(tmp_path, LENGTHS)
    reader = RecordReader(tmp_path, "train")
    assert len(reader) == 7
    for number in (6, 0, 3, 2, 5, 1, 4):
        _assert_equal(reader[number], _record(number))
    with pytest.raises(IndexError):
        reader[7]
    with pytest.raises(IndexError):
        reader[-1]


def test_equal_records_give_equal_bytes(tmp_path) -> None:
    for name in ("a", "b"):
        _write(tmp_path / name, LENGTHS)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 5
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_tfds_reads_the_shards_without_tensorflow(tmp_path) -> None:
    _write(tmp_path, LENGTHS)
    program = f"""
import sys
import tensorflow_datasets as tfds
source = tfds.builder_from_directory({str(tmp_path)!r}).as_data_source("train")
example = source[6]
print(len(source), example["id"].decode(), example["codes"].shape, example["codes"].dtype)
from data_pipeline.datasets.token_records import RecordReader
print(RecordReader({str(tmp_path)!r}, "train")[6].id)
print("tensorflow" in sys.modules, "jax" in sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.split("\n")[:3] == [
        "7 größe/6 (52, 3) uint16",
        "größe/6",
        "False False",
    ]


def test_unknown_directory_and_split_are_user_errors(tmp_path) -> None:
    with pytest.raises(UserError, match="no TFDS metadata"):
        RecordReader(tmp_path, "train")
    _write(tmp_path, LENGTHS)
    with pytest.raises(UserError, match="no split 'valid'"):
        RecordReader(tmp_path, "valid")


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _scramble(data: bytes) -> bytes:
    body = bytearray(data)
    for place in range(len(body) // 10, len(body) // 2):
        body[place] ^= 0xFF
    return bytes(body)


@pytest.mark.parametrize("damage", [_cut, _scramble, None], ids=["cut", "scrambled", "missing"])
def test_a_damaged_shard_is_named_with_its_record(tmp_path, damage) -> None:
    _write(tmp_path, LENGTHS, num_units=30_000)
    shard = tmp_path / token_records.shard_name("train", 2, 3)
    if damage is None:
        shard.unlink()
    else:
        shard.write_bytes(damage(shard.read_bytes()))
    reader = RecordReader(tmp_path, "train")
    _assert_equal(reader[2], _record(2, 30_000))
    with pytest.raises(RecordError, match=rf"{shard.name}: record 2 of the shard \(record 5 of"):
        reader[5]


def test_lengths_are_compared_with_the_index(tmp_path) -> None:
    _write(tmp_path, LENGTHS)
    reader, expected = TokenReader(tmp_path, "train"), _record(4)
    units, codes = reader.read(4, 24, 48)
    assert units.dtype == codes.dtype == np.uint16
    np.testing.assert_array_equal(units, expected.units)
    np.testing.assert_array_equal(codes, expected.codes)
    with pytest.raises(RecordError, match=r"record 1 of the shard .* holds \(24, 48\)"):
        reader.read(4, 24, 47)
