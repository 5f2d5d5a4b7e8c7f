"""Token records on disk: the features of one utterance chunk; see `examples` for the shards."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipeline.datasets import examples
from data_pipeline.datasets.examples import ExampleReader, ExampleWriter, RecordError

__all__ = [
    "Record",
    "RecordError",
    "RecordReader",
    "ShardWriter",
    "TokenReader",
    "features",
    "shard_name",
    "write_metadata",
]

DATASET_NAME = "speech_tokens"


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """Tokens of one utterance, or of one chunk of a long one.

    Attributes:
        id: unique in its dataset.
        source: path of the recording, relative to the corpus.
        speaker: `unknown` where it is not known.
        language: `und` where it is not known.
        text: transcript of these tokens, or None.
        start: offset in the recording, in seconds.
        end: end in the recording, in seconds.
        units: (S,) uint16 raw semantic units.
        codes: (Q, T) uint16 acoustic codes.
        recording_text: in the first record of a recording that is cut into several: the transcript
            of them together, of which no part is known to belong to one of them. Else None.
    """

    id: str
    source: str
    speaker: str
    language: str
    text: str | None
    start: float
    end: float
    units: np.ndarray
    codes: np.ndarray
    recording_text: str | None = None


def features(num_codebooks: int) -> tfds.features.FeaturesDict:
    """TFDS features of a record.

    Codes are stored as (T, Q): without TensorFlow only the first dimension may vary. Both streams
    are stored as bytes, which NumPy views directly; lists of integers would be parsed one by one.
    """
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "source": tfds.features.Text(),
            "speaker": tfds.features.Text(),
            "language": tfds.features.Text(),
            "text": tfds.features.Text(),
            "has_text": tfds.features.Scalar(np.bool_),
            "recording_text": tfds.features.Text(),
            "start": tfds.features.Scalar(np.float32),
            "end": tfds.features.Scalar(np.float32),
            "units": tfds.features.Tensor(shape=(None,), dtype=np.uint16, encoding="bytes"),
            "codes": tfds.features.Tensor(
                shape=(None, num_codebooks), dtype=np.uint16, encoding="bytes"
            ),
        }
    )


def shard_name(split: str, shard: int, num_shards: int) -> str:
    """File name of a shard, as TFDS expects it."""
    return examples.file_name(DATASET_NAME, split, shard, num_shards)


class ShardWriter(ExampleWriter):
    """Writes the records of one shard; equal records give equal bytes."""

    def __init__(self, path: str | Path, num_codebooks: int):
        super().__init__(path, features(num_codebooks))

    def write(self, record: Record) -> None:
        """Appends a record."""
        example = dataclasses.asdict(record)
        example["has_text"] = record.text is not None
        example["text"] = record.text or ""
        example["recording_text"] = record.recording_text or ""
        example["codes"] = np.ascontiguousarray(record.codes.T)
        self.write_example(example)


def write_metadata(
    dataset_dir: str | Path,
    num_codebooks: int,
    shard_lengths: Mapping[str, Sequence[int]],
    num_bytes: Mapping[str, int],
) -> None:
    """Writes the TFDS metadata of finished shards of Q codebooks; see `examples`."""
    examples.write_metadata(
        dataset_dir, DATASET_NAME, features(num_codebooks), shard_lengths, num_bytes
    )


class RecordReader(ExampleReader[Record]):
    """Random access to the records of a split. Safe to use from several threads."""

    def _decode(self, example: Any) -> Record:
        return Record(
            id=example["id"].decode(),
            source=example["source"].decode(),
            speaker=example["speaker"].decode(),
            language=example["language"].decode(),
            text=example["text"].decode() if example["has_text"] else None,
            start=float(example["start"]),
            end=float(example["end"]),
            units=example["units"],
            codes=np.ascontiguousarray(example["codes"].T),
            # Datasets older than this feature do not have it.
            recording_text=example.get("recording_text", b"").decode() or None,
        )


class TokenReader(ExampleReader[tuple[np.ndarray, np.ndarray]]):
    """Random access to the two streams of the records, without their other features."""

    FIELDS = ("units", "codes")

    def read(self, index: int, num_units: int, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Units (S,) and codes (Q, T) of a record, checked against the length index.

        Raises:
            RecordError: as `__getitem__`, or the lengths differ.
        """
        units, codes = self[index]
        found = (len(units), codes.shape[1])
        if found != (num_units, num_frames):
            reason = f"holds {found} units and frames, the length index {(num_units, num_frames)}"
            raise self._error(index, reason)
        return units, codes

    def _decode(self, example: Any) -> tuple[np.ndarray, np.ndarray]:
        return example["units"], example["codes"].T
