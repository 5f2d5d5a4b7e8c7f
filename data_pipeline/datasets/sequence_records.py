"""Sequence records on disk: the features of one sequence; see `examples` for the shards."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipeline.datasets import examples
from data_pipeline.datasets.examples import ExampleReader, ExampleWriter

DATASET_NAME = "speech_sequences"


@dataclasses.dataclass(frozen=True, eq=False)
class SequenceRecord:
    """One sequence of text, special tokens and units.

    Attributes:
        id: unique in its dataset.
        task: from `sequence_dataset.TASKS`.
        ids: (n,) int32, see `tokens.vocabulary`.
        loss_mask: (n,) uint8, 1 where the id is a prediction target.
    """

    id: str
    task: str
    ids: np.ndarray
    loss_mask: np.ndarray


def features() -> tfds.features.FeaturesDict:
    """TFDS features of a sequence."""
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "task": tfds.features.Text(),
            "ids": tfds.features.Tensor(shape=(None,), dtype=np.int32, encoding="bytes"),
            "loss_mask": tfds.features.Tensor(shape=(None,), dtype=np.uint8, encoding="bytes"),
        }
    )


def shard_name(split: str, shard: int, num_shards: int) -> str:
    """File name of a shard, as TFDS expects it."""
    return examples.file_name(DATASET_NAME, split, shard, num_shards)


class SequenceWriter(ExampleWriter):
    """Writes the sequences of one shard; equal sequences give equal bytes."""

    def __init__(self, path: str | Path):
        super().__init__(path, features())

    def write(self, record: SequenceRecord) -> None:
        """Appends a sequence."""
        self.write_example(dataclasses.asdict(record))


class SequenceReader(ExampleReader[SequenceRecord]):
    """Random access to the sequences of a split. Safe to use from several threads."""

    def read(self, index: int, length: int) -> SequenceRecord:
        """Reads a sequence and checks its length against the length index.

        Raises:
            RecordError: as `__getitem__`, or the length differs.
        """
        record = self[index]
        if len(record.ids) != length or len(record.loss_mask) != length:
            reason = f"holds {len(record.ids)} ids, the length index {length}"
            raise self._error(index, reason)
        return record

    def _decode(self, example: Any) -> SequenceRecord:
        return SequenceRecord(
            id=example["id"].decode(),
            task=example["task"].decode(),
            ids=example["ids"],
            loss_mask=example["loss_mask"],
        )
