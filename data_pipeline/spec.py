"""The dataset contract: `dataset.json` beside the shards, and the length index of every split.

A model takes its vocabulary sizes, codebooks and rates from here, never from a tokenizer. The
fingerprint covers everything: what the tokenizers are, how recordings were cut, and the content of
every shard and index.
"""

import dataclasses
import hashlib
import json
import types
import typing
import zipfile
from pathlib import Path
from typing import Any, Self

import numpy as np

from data_pipeline import cli
from data_pipeline.tokens import TokenLayout

SPEC_FILE = "dataset.json"
SPEC_VERSION = 1
UNKNOWN_SPEAKER = "unknown"


@dataclasses.dataclass(frozen=True)
class StreamSpec:
    """The tokenizer of the semantic stream.

    Attributes:
        id: readable name of the tokenizer and its sizes.
        sha256: of its stored configuration and weights.
        vocab_size: units are 0 .. vocab_size - 1.
        frame_rate: raw units per second, before any de-duplication.
        path: its directory, relative to the dataset's.
    """

    id: str
    sha256: str
    vocab_size: int
    frame_rate: float
    path: str


@dataclasses.dataclass(frozen=True)
class CodecSpec:
    """The codec of the acoustic stream.

    Attributes:
        id: readable name of the codec and its sizes.
        sha256: of its stored configuration and weights.
        num_codebooks: Q, residual codebooks per frame.
        codebook_size: N, entries of each codebook.
        frame_rate: frames per second.
        sample_rate: of the signals it encodes and decodes, in Hz.
        path: its directory, relative to the dataset's.
    """

    id: str
    sha256: str
    num_codebooks: int
    codebook_size: int
    frame_rate: float
    sample_rate: int
    path: str


@dataclasses.dataclass(frozen=True)
class SilenceSpec:
    """The tokens of a stretch of digital silence, which stand between joined utterances.

    Attributes:
        seconds: how long the encoded signal is.
        units: its raw semantic units (S,).
        codes: its acoustic codes (Q, T).
    """

    seconds: float
    units: tuple[int, ...]
    codes: tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class SplitSpec:
    """One split of the dataset.

    Attributes:
        num_records: utterance chunks.
        num_shards: ArrayRecord files.
        hours: of audio.
        index_sha256: of the length index file.
        shards_sha256: over the digests of the shards, in order.
    """

    num_records: int
    num_shards: int
    hours: float
    index_sha256: str
    shards_sha256: str


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """Everything that a reader of the shards must know; stored as `dataset.json`.

    Attributes:
        version: of this file's format.
        sample_rate: at which recordings were decoded, in Hz.
        semantic: the semantic tokenizer.
        codec: the acoustic codec.
        text_tokenizer: reserved for text streams; None.
        languages: of the records, sorted.
        silence: tokens of the silence between joined utterances.
        splits: by name; a split without records is not listed.
        min_seconds: shortest recording that was taken.
        chunk_seconds: longest record.
        statistics: where every input went: counts of inputs, records and failures.
        fingerprint: SHA-256 over all of the above, filled in by `sealed`.
    """

    version: int
    sample_rate: int
    semantic: StreamSpec
    codec: CodecSpec
    text_tokenizer: str | None
    languages: tuple[str, ...]
    silence: SilenceSpec
    splits: dict[str, SplitSpec]
    min_seconds: float
    chunk_seconds: float
    statistics: dict[str, int]
    fingerprint: str = ""

    def sealed(self) -> Self:
        """The same spec with its fingerprint computed."""
        return dataclasses.replace(self, fingerprint=self._digest())

    def tokenizers(self) -> dict[str, Any]:
        """What must be equal in datasets that share a model: all of it but where it lies."""
        parts = {name: dataclasses.asdict(self)[name] for name in ("semantic", "codec", "silence")}
        for part in parts.values():
            part.pop("path", None)
        return parts

    def save(self, dataset_dir: str | Path) -> None:
        """Writes `dataset.json` atomically; the spec must be sealed."""
        if self.fingerprint != self._digest():
            raise ValueError("the spec is not sealed: save spec.sealed()")
        cli.write_json(Path(dataset_dir) / SPEC_FILE, dataclasses.asdict(self))

    @classmethod
    def load(cls, dataset_dir: str | Path) -> Self:
        """Reads and checks `dataset.json`.

        Raises:
            UserError: the file is missing, damaged, of another version, has an unknown or missing
                key or a value of the wrong type, or does not agree with its fingerprint.
        """
        path = Path(dataset_dir) / SPEC_FILE
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise cli.UserError(
                f"{path} does not exist: name a directory that data_pipeline.tokenize_corpus has "
                "finished writing"
            ) from error
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise cli.UserError(f"{path} cannot be read: {error}") from error
        return cls.parse(value, str(path))

    @classmethod
    def parse(cls, value: Any, where: str) -> Self:
        """The spec from the parsed JSON of a file, or of a checkpoint; `where` names it.

        Raises:
            UserError: as `load`.
        """
        version = value.get("version") if isinstance(value, dict) else None
        if version != SPEC_VERSION:
            raise cli.UserError(
                f"{where}: version is {version!r}, this code reads {SPEC_VERSION}; write the "
                "dataset again with data_pipeline.tokenize_corpus"
            )
        spec = _build(cls, value, where)
        if spec.fingerprint != spec._digest():
            raise cli.UserError(
                f"{where}: its content does not agree with its fingerprint {spec.fingerprint!r}: "
                "it was edited or damaged, restore it or write the dataset again"
            )
        return spec

    def layout(self) -> TokenLayout:
        """The token layout of these two streams."""
        return TokenLayout(
            num_units=self.semantic.vocab_size,
            num_codebooks=self.codec.num_codebooks,
            codebook_size=self.codec.codebook_size,
            unit_rate=self.semantic.frame_rate,
            frame_rate=self.codec.frame_rate,
        )

    def split(self, name: str) -> SplitSpec:
        """The split of that name.

        Raises:
            UserError: there is none; the message lists those there are.
        """
        if name not in self.splits:
            raise cli.UserError(
                f"the dataset has no split {name!r}: choose one of {', '.join(self.splits)}"
            )
        return self.splits[name]

    def _digest(self) -> str:
        content = dataclasses.asdict(dataclasses.replace(self, fingerprint=""))
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True, eq=False)
class LengthIndex:
    """Lengths of the R records of a split, in the order of the shards.

    Attributes:
        units: (R,) int32 raw semantic units.
        units_dedup: (R,) int32 units after collapsing repeats.
        frames: (R,) int32 acoustic frames.
        speaker: (R,) int32 row of `speakers`.
        language: (R,) int32 row of `languages`.
        speakers: names; `unknown` stands for any number of voices.
        languages: codes.
    """

    units: np.ndarray
    units_dedup: np.ndarray
    frames: np.ndarray
    speaker: np.ndarray
    language: np.ndarray
    speakers: tuple[str, ...]
    languages: tuple[str, ...]

    ARRAYS: typing.ClassVar = ("units", "units_dedup", "frames", "speaker", "language")
    TABLES: typing.ClassVar = ("speakers", "languages")

    def __post_init__(self) -> None:
        """Checks shapes, dtypes and ranges."""
        for name in self.ARRAYS:
            array = getattr(self, name)
            if array.dtype != np.int32 or array.shape != self.units.shape or array.ndim != 1:
                raise ValueError(f"{name} must be ({len(self.units)},) int32, is {array.shape}")
        for name, table in (("speaker", self.speakers), ("language", self.languages)):
            rows = getattr(self, name)
            if rows.size and not (rows.min() >= 0 and rows.max() < len(table)):
                raise ValueError(f"{name} names rows outside its table of {len(table)}")
        for name in ("units", "units_dedup", "frames"):
            if self.units.size and getattr(self, name).min() < 1:
                raise ValueError(f"{name} holds a length below 1")

    def __len__(self) -> int:
        """Number of records R."""
        return len(self.units)

    def save(self, path: str | Path) -> str:
        """Writes an npz file (no pickle); returns its SHA-256. Equal content gives equal bytes."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        arrays: dict[str, Any] = {name: getattr(self, name) for name in self.ARRAYS}
        arrays |= {name: np.array(getattr(self, name), dtype=np.str_) for name in self.TABLES}
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
        digest = file_sha256(temporary)
        temporary.replace(path)
        return digest

    @classmethod
    def load(cls, dataset_dir: str | Path, spec: DatasetSpec, split: str) -> Self:
        """Reads the index of a split and checks that it is the one the spec names.

        Raises:
            UserError: no such split, or the file is missing or not the one `dataset.json` names.
        """
        expected = spec.split(split)
        path = index_path(dataset_dir, split)
        remedy = "restore it from a copy or write the dataset again"
        try:
            if file_sha256(path) != expected.index_sha256:
                raise cli.UserError(f"{path} is not the file that {SPEC_FILE} names: {remedy}")
            with np.load(path, allow_pickle=False) as file:
                values: dict[str, Any] = {name: file[name] for name in cls.ARRAYS}
                values |= {name: tuple(file[name].tolist()) for name in cls.TABLES}
                index = cls(**values)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise cli.UserError(f"{path} cannot be read ({error}): {remedy}") from error
        if len(index) != expected.num_records:
            raise cli.UserError(
                f"{path} holds {len(index)} records, {SPEC_FILE} {expected.num_records}: {remedy}"
            )
        return index


def index_path(dataset_dir: str | Path, split: str) -> Path:
    """Where the length index of a split lies."""
    return Path(dataset_dir) / "length_index" / f"{split}.npz"


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _build(hint: Any, value: Any, where: str) -> Any:
    """Builds a value of type `hint` from parsed JSON; every disagreement is a UserError."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        _expect(isinstance(value, dict), where, "an object", value)
        hints = typing.get_type_hints(hint)
        names = [field.name for field in dataclasses.fields(hint)]
        for key in value:
            if key not in names:
                raise cli.UserError(f"{where}: unknown key {key!r}")
        for name in names:
            if name not in value:
                raise cli.UserError(f"{where}: missing key {name!r}")
        return hint(
            **{name: _build(hints[name], value[name], f"{where}: {name}") for name in names}
        )
    if origin is types.UnionType:
        return None if value is None else _build(arguments[0], value, where)
    if origin is tuple:
        _expect(isinstance(value, list), where, "a list", value)
        return tuple(_build(arguments[0], item, where) for item in value)
    if origin is dict:
        _expect(isinstance(value, dict), where, "an object", value)
        return {key: _build(arguments[1], item, f"{where}: {key}") for key, item in value.items()}
    if hint is float:
        _expect(
            isinstance(value, int | float) and not isinstance(value, bool), where, "a number", value
        )
        return float(value)
    _expect(isinstance(value, hint) and not isinstance(value, bool), where, hint.__name__, value)
    return value


def _expect(condition: bool, where: str, expected: str, value: Any) -> None:
    if not condition:
        raise cli.UserError(f"{where}: expected {expected}, found {value!r}")
