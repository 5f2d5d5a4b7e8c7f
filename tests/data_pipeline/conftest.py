"""Datasets of made-up tokens, for tests of what reads them, and a made-up corpus."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from fake_corpus import calls, config  # noqa: F401

from data_pipeline.datasets import token_records
from data_pipeline.datasets.token_dataset import (
    SPEC_VERSION,
    CodecSpec,
    DatasetSpec,
    LengthIndex,
    SilenceSpec,
    SplitSpec,
    StreamSpec,
    index_path,
)
from data_pipeline.datasets.token_records import Record, ShardWriter
from data_pipeline.runtime.files import file_sha256
from data_pipeline.tokens import deduplicate

NUM_UNITS, CODEBOOKS, CODEBOOK_SIZE = 20, 3, 16
SILENCE = SilenceSpec(0.1, (7,) * 5, ((1,) * 8, (2,) * 8, (3,) * 8))

WriteDataset = Callable[..., DatasetSpec]


def make_record(number: int, speaker: str = "a", language: str = "und", seed: int = 0) -> Record:
    """0.2 to 3 s with repeated units; 50 units and 75 frames a second."""
    random = np.random.default_rng((seed, number))
    size = int(random.integers(10, 150))
    units = np.repeat(random.integers(0, NUM_UNITS, size), random.integers(1, 4, size))[:size]
    codes = random.integers(0, CODEBOOK_SIZE, (CODEBOOKS, int(np.ceil(1.5 * size))))
    return Record(
        id=f"{seed}/{number}",
        source=f"{seed}/{number}.wav",
        speaker=speaker,
        language=language,
        text=None,
        start=0.0,
        end=size / 50,
        units=units.astype(np.uint16),
        codes=codes.astype(np.uint16),
    )


def write(
    directory: Path,
    splits: dict[str, Sequence[Record]],
    shards: int = 3,
    semantic_sha256: str = "0",
) -> DatasetSpec:
    """Writes a whole dataset and returns its spec."""
    directory.mkdir(parents=True, exist_ok=True)
    specs, lengths, sizes = {}, {}, {}
    for split, members in splits.items():
        parts = np.array_split(np.arange(len(members)), shards)
        lengths[split], sizes[split] = [len(part) for part in parts], 0
        digests = []
        for shard, part in enumerate(parts):
            path = directory / token_records.shard_name(split, shard, shards)
            with ShardWriter(path, CODEBOOKS) as writer:
                for number in part:
                    writer.write(members[number])
            sizes[split] += writer.num_bytes
            digests.append(file_sha256(path))
        speakers = sorted({record.speaker for record in members})
        languages = sorted({record.language for record in members})
        columns = {
            "units": [len(record.units) for record in members],
            "units_dedup": [len(deduplicate(record.units)[0]) for record in members],
            "frames": [record.codes.shape[1] for record in members],
            "speaker": [speakers.index(record.speaker) for record in members],
            "language": [languages.index(record.language) for record in members],
        }
        index = LengthIndex(
            **{name: np.array(column, np.int32) for name, column in columns.items()},
            speakers=tuple(speakers),
            languages=tuple(languages),
        )
        specs[split] = SplitSpec(
            num_records=len(members),
            num_shards=shards,
            hours=sum(record.end - record.start for record in members) / 3600,
            index_sha256=index.save(index_path(directory, split)),
            shards_sha256=hashlib.sha256("\n".join(digests).encode()).hexdigest(),
        )
    token_records.write_metadata(directory, CODEBOOKS, lengths, sizes)
    spec = DatasetSpec(
        version=SPEC_VERSION,
        sample_rate=16000,
        semantic=StreamSpec("fake", semantic_sha256, NUM_UNITS, 50.0, "tokenizers/semantic"),
        codec=CodecSpec("fake", "0", CODEBOOKS, CODEBOOK_SIZE, 75.0, 16000, "tokenizers/codec"),
        text_tokenizer=None,
        languages=tuple(sorted({r.language for members in splits.values() for r in members})),
        silence=SILENCE,
        splits=specs,
        min_seconds=0.1,
        chunk_seconds=30.0,
        statistics={"inputs": sum(map(len, splits.values())), "failed": 0},
    ).sealed()
    spec.save(directory)
    return spec


@pytest.fixture(scope="session")
def write_dataset() -> WriteDataset:
    """The function `write` of this file."""
    return write


@pytest.fixture(scope="session")
def make_token_record() -> Callable[..., Record]:
    """The function `make_record` of this file."""
    return make_record
