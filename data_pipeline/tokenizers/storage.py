"""Tokenizers on disk: a directory of `config.json` and `weights.safetensors`, with a hash.

`config.json` holds the tokenizer's kind, its configuration, and the SHA-256 over these two and the
bytes of the weights. Loading a directory that does not match its hash is an error.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import safetensors
import safetensors.numpy

from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.safetensors"

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Config = TypeVar("_Config", bound="DataclassInstance")


@dataclasses.dataclass(frozen=True)
class StoredTokenizer:
    """Content of a tokenizer's directory."""

    kind: str
    config: dict[str, Any]
    weights: dict[str, np.ndarray]
    sha256: str

    def parse_config(self, config_type: type[_Config], directory: str | os.PathLike) -> _Config:
        """Returns the configuration as its dataclass.

        Raises:
            UserError: a key is missing or unknown, or has an invalid value.
        """
        expected = {field.name for field in dataclasses.fields(config_type)}
        if wrong := expected ^ set(self.config):
            names = ", ".join(sorted(wrong))
            raise UserError(f"{Path(directory, CONFIG_FILE)}: missing or unknown keys: {names}")
        try:
            return config_type(**self.config)
        except (TypeError, ValueError) as error:
            raise UserError(f"{Path(directory, CONFIG_FILE)}: {error}") from error


def save_tokenizer(
    directory: str | os.PathLike[str], kind: str, config: Any, weights: Mapping[str, np.ndarray]
) -> str:
    """Writes a tokenizer and returns its SHA-256.

    Args:
        directory: created if missing; a tokenizer in it is overwritten.
        kind: name of the implementation.
        config: a dataclass of JSON values.
        weights: named arrays.

    Raises:
        UserError: the directory cannot be written.
    """
    directory = Path(directory)
    data = _serialised(weights)
    settings = dataclasses.asdict(config)
    digest = _digest(kind, settings, data)
    temporary = directory / f".{WEIGHTS_FILE}.partial"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(directory / WEIGHTS_FILE)
    except OSError as error:
        raise UserError(f"cannot write {directory / WEIGHTS_FILE}: {error.strerror}") from error
    write_json(directory / CONFIG_FILE, {"kind": kind, "config": settings, "sha256": digest})
    return digest


def load_tokenizer(directory: str | os.PathLike[str]) -> StoredTokenizer:
    """Reads a tokenizer's directory and checks its hash.

    Raises:
        UserError: a file is missing, unreadable, or does not match the hash.
    """
    path, weights_path = Path(directory, CONFIG_FILE), Path(directory, WEIGHTS_FILE)
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        kind, config, expected = stored["kind"], stored["config"], stored["sha256"]
        data = weights_path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{directory} is not a tokenizer's directory: {error.filename}: {error.strerror}"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a tokenizer configuration: {error!r}") from error
    found = _digest(kind, config, data)
    if found != expected:
        raise UserError(
            f"{directory}: sha256 is {found}, but {expected} in {CONFIG_FILE}: the files were "
            "modified or corrupted after fitting; fit the tokenizer again"
        )
    return StoredTokenizer(kind, config, safetensors.numpy.load(data), found)


def identity(kind: str, config: Any, weights: Mapping[str, np.ndarray]) -> str:
    """The SHA-256 that `save_tokenizer` would return."""
    return _digest(kind, dataclasses.asdict(config), _serialised(weights))


def _serialised(weights: Mapping[str, np.ndarray]) -> bytes:
    return safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in weights.items()})


def _digest(kind: str, config: Mapping[str, Any], data: bytes) -> str:
    settings = json.dumps({"kind": kind, "config": config}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(settings.encode() + b"\n" + data).hexdigest()
