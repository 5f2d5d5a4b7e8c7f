"""Base classes of all kinds of datasets: a fingerprinted `dataset.json`, and length indices.

Each kind of dataset subclasses `Sealed` and `StoredIndex` with frozen dataclasses.
"""

import dataclasses
import hashlib
import json
import types
import typing
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np

from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import file_sha256, write_json

SPEC_FILE = "dataset.json"


@dataclasses.dataclass(frozen=True)
class SplitSpec:
    """One split of a dataset.

    Attributes:
        num_records: number of utterance chunks, or of sequences.
        num_shards: number of ArrayRecord files.
        hours: of audio.
        index_sha256: SHA-256 of the length index file.
        shards_sha256: SHA-256 over the digests of the shards, in order.
    """

    num_records: int
    num_shards: int
    hours: float
    index_sha256: str
    shards_sha256: str


class Sealed:
    """Base of dataset specs: serialisation, and a fingerprint over all fields."""

    VERSION: ClassVar[int]
    WRITER: ClassVar[str]  # the module that writes such datasets
    MODEL_FIELDS: ClassVar[tuple[str, ...]]  # datasets of one model agree in them

    if TYPE_CHECKING:  # fields of every subclass
        version: int
        splits: dict[str, SplitSpec]
        statistics: dict[str, int]
        fingerprint: str

    def sealed(self) -> Self:
        """A copy with its fingerprint computed."""
        return self._replaced(fingerprint=self._digest())

    def tokenizers(self) -> dict[str, Any]:
        """The values that must be equal in datasets that share a model, without their paths."""
        parts = {name: self._values()[name] for name in self.MODEL_FIELDS}
        for part in parts.values():
            if isinstance(part, dict):
                part.pop("path", None)
        return parts

    def mixed_fields(self, specs: Sequence[Any]) -> dict[str, Any]:
        """Merged fields of a mixture of datasets, other than splits and statistics."""
        del specs
        return {}

    def describe(self) -> str:
        """Splits and tokenizers as one readable line."""
        splits = ", ".join(
            f"{name} {split.num_records:,} records ({split.hours:.2f} h)"
            for name, split in self.splits.items()
        )
        return f"{splits}; {' + '.join(self.tokenizer_ids())}"

    def tokenizer_ids(self) -> tuple[str, ...]:
        """Readable names of the tokenizers."""
        raise NotImplementedError

    def save(self, dataset_dir: str | Path) -> None:
        """Writes `dataset.json` atomically; the spec must be sealed."""
        if self.fingerprint != self._digest():
            raise ValueError("the spec is not sealed: save spec.sealed()")
        write_json(Path(dataset_dir) / SPEC_FILE, self._values())

    @classmethod
    def load(cls, dataset_dir: str | Path) -> Self:
        """Reads and checks `dataset.json`.

        Raises:
            UserError: the file is missing, corrupt, of another version or kind, has an unknown or
                missing key or a value of the wrong type, or does not match its fingerprint.
        """
        return cls.parse(read_json(dataset_dir), str(Path(dataset_dir) / SPEC_FILE))

    @classmethod
    def parse(cls, value: Any, where: str) -> Self:
        """Builds the spec from parsed JSON; `where` names its file or checkpoint in messages.

        Raises:
            UserError: as `load`.
        """
        cls._check_kind(value, where)
        version = value.get("version") if isinstance(value, dict) else None
        if version != cls.VERSION:
            raise UserError(
                f"{where}: version is {version!r}, this code reads {cls.VERSION}; write the "
                f"dataset again with {cls.WRITER}"
            )
        spec = build(cls, value, where)
        if spec.fingerprint != spec._digest():
            raise UserError(
                f"{where}: its content does not match its fingerprint {spec.fingerprint!r}: it was "
                "edited or corrupted, restore it or write the dataset again"
            )
        return spec

    @classmethod
    def _check_kind(cls, value: Any, where: str) -> None:
        kind = value.get("kind") if isinstance(value, dict) else None
        expected = getattr(cls, "KIND", None)
        if kind != expected:
            raise UserError(
                f"{where}: this is a dataset of {kind or 'tokens'}, but one of "
                f"{expected or 'tokens'} is needed, as {cls.WRITER} writes it"
            )

    def split(self, name: str) -> SplitSpec:
        """The split of that name.

        Raises:
            UserError: there is none; the message lists the splits.
        """
        if name not in self.splits:
            raise UserError(
                f"the dataset has no split {name!r}: choose one of {', '.join(self.splits)}"
            )
        return self.splits[name]

    def _replaced(self, **changes: Any) -> Self:
        return dataclasses.replace(cast(Any, self), **changes)

    def _values(self) -> dict[str, Any]:
        return dataclasses.asdict(cast(Any, self))

    def _digest(self) -> str:
        content = self._replaced(fingerprint="")._values()
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class StoredIndex:
    """Base of length indices: columns over the R records of a split, in the order of the shards.

    Columns are (R,) int32. Those of TABLES index a table of names, those of LENGTHS are at least 1.
    """

    ARRAYS: ClassVar[tuple[str, ...]]
    TABLES: ClassVar[dict[str, str]]  # column -> field that holds its names
    LENGTHS: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        """Checks shapes, dtypes and ranges."""
        for name in self.ARRAYS:
            array = getattr(self, name)
            if array.dtype != np.int32 or array.shape != (len(self),):
                raise ValueError(f"{name} must be ({len(self)},) int32, is {array.shape}")
        for name, field in self.TABLES.items():
            rows, table = getattr(self, name), getattr(self, field)
            if rows.size and not (rows.min() >= 0 and rows.max() < len(table)):
                raise ValueError(f"{name} has indices outside its table of {len(table)}")
        for name in self.LENGTHS:
            if len(self) and getattr(self, name).min() < 1:
                raise ValueError(f"{name} holds a length below 1")

    def __len__(self) -> int:
        """Number of records R."""
        return getattr(self, self.ARRAYS[0]).size

    def save(self, path: str | Path) -> str:
        """Writes an npz file (no pickle), deterministically, and returns its SHA-256."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        arrays: dict[str, Any] = {name: getattr(self, name) for name in self.ARRAYS}
        for field in self.TABLES.values():
            arrays[field] = np.array(getattr(self, field), dtype=np.str_)
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
        digest = file_sha256(temporary)
        temporary.replace(path)
        return digest

    @classmethod
    def load(cls, dataset_dir: str | Path, spec: Sealed, split: str) -> Self:
        """Reads the index of a split and checks it against the spec.

        Raises:
            UserError: there is no such split, or the file is missing, corrupt or another one.
        """
        expected = spec.split(split)
        path = index_path(dataset_dir, split)
        remedy = "restore it from a copy or write the dataset again"
        try:
            if file_sha256(path) != expected.index_sha256:
                raise UserError(f"{path} is not the file that {SPEC_FILE} names: {remedy}")
            with np.load(path, allow_pickle=False) as file:
                values: dict[str, Any] = {name: file[name] for name in cls.ARRAYS}
                values |= {name: tuple(file[name].tolist()) for name in cls.TABLES.values()}
                index = cls(**values)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} cannot be read ({error}): {remedy}") from error
        if len(index) != expected.num_records:
            raise UserError(
                f"{path} holds {len(index)} records, {SPEC_FILE} {expected.num_records}: {remedy}"
            )
        return index


def read_json(dataset_dir: str | Path) -> Any:
    """The parsed `dataset.json` of a directory, of any kind.

    Raises:
        UserError: the file is missing or corrupt.
    """
    path = Path(dataset_dir) / SPEC_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist: name a directory that data_pipeline.tokenize_corpus or "
            "data_pipeline.build_sequences has finished writing"
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def index_path(dataset_dir: str | Path, split: str) -> Path:
    """Path of the length index of a split."""
    return Path(dataset_dir) / "length_index" / f"{split}.npz"


def build(hint: Any, value: Any, where: str) -> Any:
    """Builds a value of type `hint` from parsed JSON; UserError wherever they do not match."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        _expect(isinstance(value, dict), where, "an object", value)
        hints = typing.get_type_hints(hint)
        names = [field.name for field in dataclasses.fields(hint)]
        for key in value:
            if key not in names:
                raise UserError(f"{where}: unknown key {key!r}")
        for name in names:
            if name not in value:
                raise UserError(f"{where}: missing key {name!r}")
        values = {name: build(hints[name], value[name], f"{where}: {name}") for name in names}
        try:
            return hint(**values)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
    if origin is types.UnionType:
        return None if value is None else build(arguments[0], value, where)
    if origin is tuple:
        _expect(isinstance(value, list), where, "a list", value)
        return tuple(build(arguments[0], item, where) for item in value)
    if origin is dict:
        _expect(isinstance(value, dict), where, "an object", value)
        return {key: build(arguments[1], item, f"{where}: {key}") for key, item in value.items()}
    if hint is float:
        _expect(
            isinstance(value, int | float) and not isinstance(value, bool), where, "a number", value
        )
        return float(value)
    _expect(isinstance(value, hint) and not isinstance(value, bool), where, hint.__name__, value)
    return value


def _expect(condition: bool, where: str, expected: str, value: Any) -> None:
    if not condition:
        raise UserError(f"{where}: expected {expected}, found {value!r}")
