"""Writes a dataset of random tokens and the config of a run that takes seconds.

    python -m tpu_scripts.rehearsal.make_run DIR STEPS

For rehearsals: the result must depend on every batch and every step.
"""

import sys
from pathlib import Path

import numpy as np

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

UNITS, CODEBOOKS, CODES, RATE = 12, 2, 8, 50
CONFIG = '''"""A run for rehearsals."""

from gpst_jax.config import (
    DataConfig,
    GPSTConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    TransformerConfig,
)


def get_config() -> RunConfig:
    net = TransformerConfig(d_model=16, num_layers=1, num_heads=2, d_ff=16)
    return RunConfig(
        name="rehearsal",
        model=GPSTConfig(global_net=net, local_net=net),
        data=DataConfig(batch_size={rows}, sequence_length=64, frame_budget=32, crop_seconds=0.5),
        optimizer=OptimizerConfig(schedule="inverse_sqrt"),
        train=TrainConfig(
            steps={steps}, log_every=1, eval_every=0, eval_batches=0, checkpoint_every_steps={every}
        ),
    )
'''


def _record(number: int) -> Record:
    rng = np.random.default_rng(number)
    size = int(rng.integers(10, 40))
    return Record(
        id=str(number),
        source=f"{number}.wav",
        speaker="ab"[number % 2],
        language="und",
        text=None,
        start=0.0,
        end=size / RATE,
        units=rng.integers(0, UNITS, size).astype(np.uint16),
        codes=rng.integers(0, CODES, (CODEBOOKS, size)).astype(np.uint16),
    )


def write_dataset(directory: Path, count: int = 24) -> None:
    """Writes one shard of `count` records as split `train`."""
    directory.mkdir(parents=True)
    made = [_record(number) for number in range(count)]
    with ShardWriter(directory / token_records.shard_name("train", 0, 1), CODEBOOKS) as writer:
        for record in made:
            writer.write(record)
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
    digest = index.save(index_path(directory, "train"))
    token_records.write_metadata(
        directory, CODEBOOKS, {"train": [count]}, {"train": writer.num_bytes}
    )
    split = SplitSpec(count, 1, float(length.sum()) / RATE / 3600, digest, "0")
    DatasetSpec(
        version=SPEC_VERSION,
        sample_rate=16000,
        semantic=StreamSpec("random", "0", UNITS, float(RATE), "tokenizers/semantic"),
        codec=CodecSpec("random", "0", CODEBOOKS, CODES, float(RATE), 16000, "tokenizers/codec"),
        text_tokenizer=None,
        languages=("und",),
        silence=SilenceSpec(0.1, (7,) * 5, ((1,) * 5, (2,) * 5)),
        splits={"train": split},
        min_seconds=0.1,
        chunk_seconds=30.0,
        statistics={},
    ).sealed().save(directory)


def main() -> None:
    """Runs the program; see the module docstring."""
    directory, steps = Path(sys.argv[1]), int(sys.argv[2])
    write_dataset(directory / "tokens")
    every = max(steps // 12, 2)
    text = CONFIG.format(rows=4, steps=steps, every=every)
    (directory / "run.py").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
