"""Audio datasets of TensorFlow Datasets as ArrayRecord: librispeech, ljspeech, libritts and so on.

TFDS can read prepared datasets without TensorFlow, but not the `Audio` feature, whose constructor
needs a TensorFlow type. This module therefore parses the files: metadata are JSON, shards are
ArrayRecord files of `tf.train.Example` messages.
"""

import functools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.audio.io import AudioError, decode_audio
from data_pipeline.runtime.contents import FileState, file_state
from data_pipeline.runtime.errors import UserError
from data_pipeline.sources.base import (
    SPLITS,
    UNKNOWN_SPEAKER,
    Failure,
    Utterance,
    checked,
    encode_member,
)
from data_pipeline.sources.speakers import report_speakers

_IDS = ("id", "utt_id", "audio_id", "audio/id", "path")
_SPEAKERS = ("speaker_id", "speaker", "client_id")
_TEXTS = (
    "text",
    "text_normalized",
    "normalized_text",
    "text_original",
    "raw_text",
    "sentence",
    "transcript",
    "transcription",
    "raw_transcription",
)
_FULL_SCALE = 32768.0  # TFDS stores 16-bit integers


@dataclass(frozen=True)
class TFDSSource:
    """A prepared TFDS dataset.

    Attributes:
        dataset: directory with `dataset_info.json`, or a name such as `librispeech` or
            `libritts/1.0.1` below `data_dir`; without a version, the newest is used.
        split: of the dataset, several joined by +; empty means all.
        data_dir: parent directory of named datasets; empty means ~/tensorflow_datasets.
        language: of all utterances.
        sample_rate: in Hz, for datasets that do not store theirs.
    """

    dataset: str | os.PathLike[str]
    split: str = ""
    data_dir: str = ""
    language: str = "und"
    sample_rate: int = 0

    def list(self) -> tuple[list[Utterance], list[Failure]]:
        """See `base.Source`; reads every record, because audio and text are stored together."""
        directory = _find(self.dataset, self.data_dir)
        feature, rate = _audio_feature(directory, self.sample_rate)
        utterances = []
        failures: list[Failure] = []
        for split, shard in _shards(directory, self.split):
            for row, example in enumerate(_examples(shard)):
                name = f"{split}/{_text(example, _IDS) or f'{shard.name}-{row}'}"
                if isinstance(example, AudioError):
                    reason = f"row {row}: {example.reason}"
                    failures.append(Failure(name, str(shard), "list", reason))
                    continue
                utterances.append(
                    Utterance(
                        id=name,
                        path=str(shard),
                        speaker=_text(example, _SPEAKERS) or UNKNOWN_SPEAKER,
                        language=self.language,
                        text=_text(example, _TEXTS) or None,
                        # Other splits, such as train_clean100, are left to `assign_splits`.
                        split=split if split in SPLITS else "",
                        member=encode_member(row=row, feature=feature, rate=rate),
                    )
                )
        if not utterances and not failures:
            raise UserError(f"{directory} holds no records")
        utterances, failures = checked(utterances, failures)
        report_speakers(utterances, "the data set's own feature", None)
        return utterances, failures


def read_row(path: str, row: int, feature: str, rate: int) -> tuple[np.ndarray, int]:
    """Samples, float32 (N,), and sample rate in Hz of a record's audio.

    Raises:
        AudioError: the record or its audio cannot be read.
    """
    example = _parse(row_bytes(path, row))
    if isinstance(example, AudioError):
        raise AudioError(f"row {row}: {example.reason}", path)
    value = example.features.feature[feature]
    kind = value.WhichOneof("kind")
    if kind == "bytes_list" and len(value.bytes_list.value) == 1:  # lazy_decode: an encoded file
        return decode_audio(value.bytes_list.value[0], path)
    if kind == "int64_list":
        samples = np.array(value.int64_list.value, np.float64) / _FULL_SCALE
        if samples.size and np.abs(samples).max() > 1.0:
            raise AudioError(f"row {row}: {feature} exceeds 16 bits", path)
    elif kind == "float_list":
        samples = np.array(value.float_list.value, np.float64)
    else:
        raise AudioError(f"row {row}: no audio in {feature}", path)
    return samples.astype(np.float32), rate


def row_bytes(path: str, row: int) -> bytes:
    """A record as it is stored.

    Raises:
        AudioError: it cannot be read.
    """
    reader = _reader(path)
    if not 0 <= row < reader.num_records():
        raise AudioError(f"has no row {row}", path)
    return reader.read([row])[0]


def _find(dataset: str | os.PathLike[str], data_dir: str) -> Path:
    """The directory of one version of a dataset."""
    directory = Path(dataset).absolute()
    if not directory.is_dir():
        directory = Path(data_dir or "~/tensorflow_datasets").expanduser() / dataset
    found = [path.parent for path in directory.glob("**/dataset_info.json")]
    if not found:
        name = Path(dataset).name
        raise UserError(
            f"no prepared dataset at {directory}: name a directory with dataset_info.json, or "
            f"prepare it where TensorFlow is: tfds build {name} --file_format=array_record"
        )
    configurations = {path.parent for path in found}
    if len(configurations) > 1:
        names = ", ".join(sorted(str(path.relative_to(directory)) for path in found))
        raise UserError(f"{directory} holds several datasets, name one: {names}")
    return max(found, key=lambda path: [int(part) for part in _version(path.name)])


def _version(name: str) -> list[str]:
    parts = name.split(".")
    return parts if all(part.isdecimal() for part in parts) else ["0"]


def _audio_feature(directory: Path, sample_rate: int) -> tuple[str, int]:
    """Name and sample rate of the only audio feature."""
    path = directory / "features.json"
    features = _read_json(path).get("featuresDict", {}).get("features", {})
    found = {name: value for name, value in features.items() if "audio" in value}
    if len(found) != 1:
        raise UserError(f"{path}: exactly one audio feature is needed, found {sorted(found)}")
    ((name, value),) = found.items()
    details = value["audio"]
    if len(details.get("shape", {}).get("dimensions", [])) > 1:
        raise UserError(f"{path}: {name} has several channels")
    if details.get("encoding", "none").lower() not in ("none", ""):
        raise UserError(f"{path}: {name} is stored compressed ({details['encoding']})")
    rate = int(details.get("sampleRate") or 0) or sample_rate
    if rate <= 0:
        raise UserError(f"{path} does not state the sample rate of {name}: give sample_rate=")
    return name, rate


def _shards(directory: Path, wanted: str) -> Iterator[tuple[str, Path]]:
    """Split and path of every shard, in order."""
    path = directory / "dataset_info.json"
    info = _read_json(path)
    if info.get("fileFormat") != "array_record":
        raise UserError(
            f"{path}: the format is {info.get('fileFormat', 'tfrecord')!r}, array_record is "
            "needed: build it with --file_format=array_record, or convert it with tfds "
            "convert_format"
        )
    splits = {split["name"]: split for split in info.get("splits", [])}
    for name in wanted.split("+") if wanted else splits:
        if name not in splits:
            raise UserError(f"{path}: no split {name!r}, choose from {', '.join(splits)}")
        count = len(splits[name]["shardLengths"])
        template = splits[name].get("filepathTemplate") or (
            "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        )
        for number in range(count):
            shard = directory / template.format(
                DATASET=info["name"],
                SPLIT=name,
                FILEFORMAT="array_record",
                SHARD_X_OF_Y=f"{number:05d}-of-{count:05d}",
                SHARD_INDEX=f"{number:05d}",
                NUM_SHARDS=f"{count:05d}",
            )
            if not shard.is_file():
                raise UserError(f"{shard} is missing: {path} lists it")
            yield name, shard


def _examples(shard: Path) -> Iterator[Any]:
    """The parsed records of a shard; an AudioError in place of one that cannot be parsed."""
    reader = _reader(str(shard))
    for start in range(0, reader.num_records(), 64):
        stop = min(start + 64, reader.num_records())
        for data in reader.read(list(range(start, stop))):
            yield _parse(data)


def _parse(data: bytes) -> Any:
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        return tf_example_pb2.Example.FromString(data)
    except DecodeError as error:
        return AudioError(f"not a tf.train.Example: {error}")


def _reader(path: str) -> Any:
    return _open_reader(path, file_state(path))


@functools.lru_cache(maxsize=2)
def _open_reader(path: str, state: FileState) -> Any:
    del state  # part of the key: a shard that was written again is opened again
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        return ArrayRecordReader(path)
    except (OSError, RuntimeError, ValueError) as error:
        raise AudioError(f"not an ArrayRecord file: {error}", path) from error


def _text(example: Any, names: tuple[str, ...]) -> str:
    """The value of the first feature that exists, as text."""
    if isinstance(example, AudioError):
        return ""
    features = example.features.feature
    for name in names:
        if name in features:
            value = features[name]
            if value.bytes_list.value:
                return value.bytes_list.value[0].decode("utf-8", "surrogateescape").strip()
            if value.int64_list.value:
                return str(value.int64_list.value[0])
    return ""


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
