"""Fixtures for programs run as users run them, on a small dataset of real shards.

No program outlives its test.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import programs
import pytest
from stored_model import save_codec

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

UNITS, CODEBOOKS, CODES = 12, 2, 8
RECORDS = {"train": 24, "valid": 4}


def _record(number: int) -> Record:
    random = np.random.default_rng(number)
    size = int(random.integers(10, 40))
    return Record(
        id=str(number),
        source=f"{number}.wav",
        speaker="ab"[number % 2],
        language="und",
        text=None,
        start=0.0,
        end=size / 50,
        units=random.integers(0, UNITS, size).astype(np.uint16),
        codes=random.integers(0, CODES, (CODEBOOKS, size)).astype(np.uint16),
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("dataset")
    splits, lengths, sizes = {}, {}, {}
    for split, count in RECORDS.items():
        made = [_record(number) for number in range(count)]
        with ShardWriter(directory / token_records.shard_name(split, 0, 1), CODEBOOKS) as writer:
            for record in made:
                writer.write(record)
        lengths[split], sizes[split] = [count], writer.num_bytes
        length = np.array([len(record.units) for record in made], np.int32)
        index = LengthIndex(
            units=length,
            units_dedup=length,
            frames=length,
            speaker=np.arange(count, dtype=np.int32) % 2,
            language=np.zeros(count, np.int32),
            speakers=("a", "b"),
            languages=("und",),
        )
        digest = index.save(index_path(directory, split))
        splits[split] = SplitSpec(count, 1, float(length.sum()) / 50 / 3600, digest, "0")
    token_records.write_metadata(directory, CODEBOOKS, lengths, sizes)
    save_codec(directory / "tokenizers" / "codec", CODEBOOKS, frame_rate=50.0)
    DatasetSpec(
        version=SPEC_VERSION,
        sample_rate=16000,
        semantic=StreamSpec("fake", "0", UNITS, 50.0, "tokenizers/semantic"),
        codec=CodecSpec("fake", "0", CODEBOOKS, CODES, 50.0, 16000, "tokenizers/codec"),
        text_tokenizer=None,
        languages=("und",),
        silence=SilenceSpec(0.1, (7,) * 5, ((1,) * 5, (2,) * 5)),
        splits=splits,
        min_seconds=0.1,
        chunk_seconds=30.0,
        statistics={},
    ).sealed().save(directory)
    return directory


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """See `programs.environment`."""
    return programs.environment()


CONFIG = """
from gpst_jax.config import *

def get_config():
    net = TransformerConfig(d_model=16, num_layers=1, num_heads=2, d_ff=16)
    return RunConfig(
        name="tiny",
        model=GPSTConfig(global_net=net, local_net=net),
        data=DataConfig(batch_size=2, sequence_length=64, frame_budget=32, crop_seconds=0.5),
        optimizer=OptimizerConfig(schedule="inverse_sqrt"),  # the same program for any steps
        train=TrainConfig(steps=40, log_every=1, eval_every=0, eval_batches=1),
    )
"""


@pytest.fixture
def config(tmp_path) -> Path:
    """File of a tiny run."""
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return path


class Program:
    """A running program whose output is kept."""

    def __init__(self, command: list[str], environment: dict[str, str]):
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        )
        self._output = b""
        # A pipe, not a file: tests forbid the program to write files.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while block := os.read(self.process.stdout.fileno(), 1 << 16):
            self._output += block

    def wait(self, timeout: float) -> int:
        """Its exit code; raises when it runs on."""
        code = self.process.wait(timeout)
        self._reader.join(10)
        return code

    def text(self) -> str:
        """What it has printed so far."""
        return self._output.decode(errors="replace")


@pytest.fixture
def start(environment) -> Iterator[Callable[..., Program]]:
    """Function (module, *arguments, **environment) -> Program; all are killed in the end."""
    started: list[Program] = []

    def begin(module: str, *arguments: str, **extra: str) -> Program:
        command = [sys.executable, "-m", module, *arguments]
        started.append(Program(command, environment | extra))
        return started[-1]

    yield begin
    for program in started:
        program.process.kill()
        program.process.wait(10)
