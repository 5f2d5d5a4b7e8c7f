"""Examples on disk: ArrayRecord shards with TFDS metadata, without TensorFlow.

The features of an example are defined in `token_records` and `sequence_records`.
`tfds.builder_from_directory(DIR).as_data_source(SPLIT)` reads the same files.
"""

import bisect
import functools
import itertools
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from google.protobuf.message import DecodeError
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from data_pipeline.datasets.cache import Shards
from data_pipeline.runtime.errors import UserError

logger = logging.getLogger(__name__)

_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
# One record per group, so that a random read decompresses a single record.
_WRITER_OPTIONS = "group_size:1"

Item = TypeVar("Item")


class RecordError(UserError):
    """A record cannot be read; the message names the shard and the record."""


def file_name(dataset: str, split: str, shard: int, num_shards: int) -> str:
    """File name of a shard, as TFDS expects it."""
    return f"{dataset}-{split}.array_record-{shard:05d}-of-{num_shards:05d}"


class ExampleWriter:
    """Writes the examples of one shard; equal examples give equal bytes."""

    def __init__(self, path: str | Path, features: tfds.features.FeaturesDict):
        self._features = features
        self._serializer = ExampleSerializer(features.get_serialized_info())
        self._writer = ArrayRecordWriter(str(path), _WRITER_OPTIONS)
        self.num_bytes = 0

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the file."""
        self._writer.close()

    def write_example(self, example: Mapping[str, Any]) -> None:
        """Appends an example."""
        message = self._serializer.get_tf_example(self._features.encode_example(example))
        # The features are a protobuf map, whose order is otherwise unspecified.
        data = message.SerializeToString(deterministic=True)
        self._writer.write(data)
        self.num_bytes += len(data)


def write_metadata(
    dataset_dir: str | Path,
    dataset: str,
    features: tfds.features.FeaturesDict,
    shard_lengths: Mapping[str, Sequence[int]],
    num_bytes: Mapping[str, int],
) -> None:
    """Writes the TFDS metadata of finished shards.

    Args:
        dataset_dir: holds the shards, named by `file_name`.
        dataset: name that the file names start with.
        features: of every example.
        shard_lengths: for every split, the number of records of every shard.
        num_bytes: for every split, the size of its serialised records.
    """
    template = tfds.core.ShardedFileTemplate(
        data_dir=Path(dataset_dir),
        template=_TEMPLATE,
        dataset_name=dataset,
        filetype_suffix="array_record",
    )
    splits = [
        tfds.core.SplitInfo(
            name=name,
            shard_lengths=list(lengths),
            num_bytes=num_bytes[name],
            filename_template=template.replace(split=name),
        )
        for name, lengths in shard_lengths.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=str(dataset_dir),
        features=features,
        split_infos=splits,
        filename_template=_TEMPLATE,
        check_data=False,  # the check reads through TensorFlow
    )


class ExampleReader(Generic[Item]):
    """Random access to the records of a split. Safe to use from several threads.

    Attributes:
        FIELDS: the features to decode; empty: all.
    """

    FIELDS: tuple[str, ...] = ()

    def __init__(self, dataset_dir: str | Path, split: str, retry_seconds: Sequence[float] = ()):
        """Opens the split's metadata; shards are opened on first access.

        Args:
            dataset_dir: directory of a dataset.
            split: one of its splits.
            retry_seconds: waits before each retry of a record that cannot be read: network file
                systems recover.

        Raises:
            UserError: the directory has no TFDS metadata, no such split, or other features.
        """
        try:
            builder = tfds.builder_from_directory(str(dataset_dir))
        except (OSError, ValueError) as error:
            raise UserError(f"{dataset_dir} holds no TFDS metadata: {error}") from error
        if split not in builder.info.splits:
            raise UserError(f"{dataset_dir}: no split {split!r} in dataset_info.json")
        info = builder.info.splits[split]
        self._directory = Path(dataset_dir)
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        self._open = functools.partial(builder.as_data_source, split, deserialize_method=raw)
        features = builder.info.features
        names = self.FIELDS or tuple(features)
        if missing := [name for name in names if name not in features]:
            raise UserError(f"{dataset_dir}: its records have no feature {missing[0]!r}")
        self._features = tfds.features.FeaturesDict({name: features[name] for name in names})
        self._source = self._open()
        self._retry_seconds = tuple(retry_seconds)
        self._ends = list(itertools.accumulate(info.shard_lengths))
        self._names = sorted(info.filenames)
        self._shards = Shards.of(self._directory, split, self._names)

    def __len__(self) -> int:
        """Number of records."""
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Item:
        """Reads record `index` of the split, 0 <= index < len.

        Raises:
            IndexError: there is no such record.
            RecordError: its shard is missing or corrupt.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        for wait in self._retry_seconds:
            try:
                return self._read(index)
            except RecordError as error:
                logger.warning("%s; retrying in %g s", error, wait)
                time.sleep(wait)
                self._source = self._open()  # the old file handle may be stale
        return self._read(index)

    def _read(self, index: int) -> Item:
        if self._shards is not None:
            self._shards.need(self._names[self._shard(index)])
        try:
            return self._decode(self._features.deserialize_example_np(self._source[index]))
        # What array_record, protobuf and TFDS raise for missing or corrupt bytes. A truncated file
        # reads as an empty message, whose features are None.
        except (
            RuntimeError,
            OSError,
            ValueError,
            DecodeError,
            KeyError,
            AttributeError,
            TypeError,
        ) as error:
            raise self._error(index, str(error)) from error

    def _decode(self, example: Any) -> Item:
        """Converts an example, as TFDS reads it, to a record."""
        raise NotImplementedError

    def _shard(self, index: int) -> int:
        """The number of the shard that holds a record of the split."""
        return bisect.bisect_right(self._ends, index)

    def _error(self, index: int, reason: str) -> RecordError:
        shard = self._shard(index)
        position = index - (self._ends[shard - 1] if shard else 0)
        return RecordError(
            f"{self._directory / self._names[shard]}: record {position} of the shard (record "
            f"{index} of the split) cannot be read: {reason}. Restore the shard from a copy, or "
            "delete the dataset directory and tokenise again"
        )
