"""Pretrained models of tokenizers: specification, location, safe reading and pinning.

On the command line a model is named by a specification

    KIND:MODEL?option=value&option=value

where KIND is a kind of tokenizer, MODEL a local directory or a repository id of the Hugging Face
hub, and the options depend on the kind; `revision=` is common to all. A dataset stores a tokenizer
directory like those of the offline tokenizers: its `config.json` pins the model by the SHA-256 of
its files, and `model.json` holds the model's location. The location is not part of the
tokenizer's identity: edit that file when the model moves.

Weights are read from safetensors files only, those of Whisper from CTranslate2's files as well (see
`whisper_weights`). Nothing is downloaded at import, nor with `HF_HUB_OFFLINE=1`, nor if MODEL is a
directory.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl

from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from data_pipeline.tokenizers import whisper_weights

LOCATION_FILE = "model.json"

_SETTINGS = ("config.json", "preprocessor_config.json")
_WEIGHTS = ".safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".th")


@dataclasses.dataclass(frozen=True)
class Location:
    """Location of a model.

    Attributes:
        model: a directory, or a repository id of the hub.
        revision: of the repository; None is its main branch.
    """

    model: str
    revision: str | None = None

    @property
    def name(self) -> str:
        """Short name, used in tokenizer ids."""
        return Path(self.model).name

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes `model.json`; a directory is stored with its absolute path."""
        model = os.path.abspath(self.model) if os.path.isdir(self.model) else self.model
        value = dataclasses.asdict(dataclasses.replace(self, model=model))
        write_json(Path(directory, LOCATION_FILE), value)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Self:
        """Reads `model.json`.

        Raises:
            UserError: the file is missing or invalid.
        """
        path = Path(directory, LOCATION_FILE)
        try:
            location = cls(**json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise UserError(
                f"{path}: {error.strerror}: it names the tokenizer's model, as "
                '{"model": DIRECTORY_OR_HUB_ID, "revision": null}'
            ) from error
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} does not name a model: {error}") from error
        if not isinstance(location.model, str) or not location.model:
            raise UserError(f"{path}: model must be a directory or an id of the hub")
        return location

    def directory(self) -> Path:
        """The local directory of the model's files, downloaded from the hub if necessary.

        Raises:
            UserError: there is no such directory or repository, the hub cannot be reached, or the
                model has no safetensors files.
        """
        if os.path.isdir(self.model):
            found = Path(self.model)
        elif self.model.startswith((".", "/", "~")) or self.model.count("/") > 1:
            raise UserError(f"model {self.model!r} is not a directory")
        else:
            found = _download(self)
        _require_safetensors(found, self)
        return found


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A parsed specification `KIND:MODEL?option=value`."""

    kind: str
    location: Location
    options: Mapping[str, str]

    @classmethod
    def parse(cls, text: str, kinds: Collection[str]) -> Self | None:
        """Parses a specification.

        Args:
            text: as given on the command line.
            kinds: the known kinds.

        Returns:
            The specification, or None if the text names a directory: it does not begin with a known
            kind and a colon.

        Raises:
            UserError: the model is missing, or an option is not written name=value or given twice.
        """
        kind, colon, rest = text.partition(":")
        if not colon or kind not in kinds or os.path.isdir(text):
            return None
        model, _, query = rest.partition("?")
        if not model:
            raise UserError(f"{text!r} names no model: write {kind}:DIRECTORY_OR_HUB_ID")
        try:
            pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        except ValueError as error:
            raise UserError(
                f"{text!r}: options are written ?name=value&name=value ({error})"
            ) from error
        options = dict(pairs)
        if len(options) != len(pairs):
            raise UserError(f"{text!r} gives an option twice")
        revision = options.pop("revision", None)
        return cls(kind, Location(model, revision), options)

    def checked_options(self, allowed: Collection[str]) -> Mapping[str, str]:
        """The options, all of which must be among `allowed`.

        Raises:
            UserError: an option is unknown.
        """
        for name in self.options:
            if name not in allowed:
                raise UserError(
                    f"{self.kind}:{self.location.model}: unknown option {name!r}, choose from "
                    f"{', '.join(sorted([*allowed, 'revision']))}"
                )
        return self.options

    def positive_int(self, name: str, default: int | None = None) -> int | None:
        """The value of an option that must be a positive integer.

        Raises:
            UserError: it is not one.
        """
        if name not in self.options:
            return default
        value = self.options[name]
        if not value.isdecimal() or int(value) == 0:
            raise UserError(f"{self.kind}: option {name}={value} must be a positive integer")
        return int(value)

    def choice(self, name: str, choices: Collection[str], default: str) -> str:
        """The value of an option that must be one of `choices`.

        Raises:
            UserError: it is not.
        """
        value = self.options.get(name, default)
        if value not in choices:
            raise UserError(f"{self.kind}: option {name}={value} is not one of {list(choices)}")
        return value


@functools.lru_cache(maxsize=8)
def model_sha256(directory: Path) -> str:
    """SHA-256 over the names and contents of a model's configuration and weight files.

    Raises:
        UserError: a file cannot be read.
    """
    names = sorted(
        path.name
        for path in directory.iterdir()
        if path.name in _SETTINGS or path.name.endswith((_WEIGHTS, f"{_WEIGHTS}.index.json"))
    )
    if whisper_weights.CTRANSLATE2 in whisper_weights.formats(directory):
        names = sorted([*names, whisper_weights.WEIGHTS])
    digest = hashlib.sha256()
    for name in names:
        try:
            with open(directory / name, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"cannot read {directory / name}: {error.strerror}") from error
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()


def checked_directory(
    location: Location, expected: str, find: Callable[[Location], Path] = Location.directory
) -> Path:
    """The model's local directory, after a check that it holds the pinned model.

    Args:
        location: of the model.
        expected: its `model_sha256`.
        find: the directory of a location.

    Raises:
        UserError: see `Location.directory`, or the files are not the pinned ones.
    """
    directory = find(location)
    found = model_sha256(directory)
    if found != expected:
        raise UserError(
            f"model {location.model}: sha256 of its files is {found}, the tokenizer was made with "
            f"{expected}: name that model in {LOCATION_FILE}, with its revision if necessary"
        )
    return directory


def read_settings(directory: Path, name: str = "config.json") -> dict[str, Any]:
    """Reads a JSON file of a model; {} if an optional one (not config.json) is missing.

    Raises:
        UserError: the file cannot be read.
    """
    path = directory / name
    if name != "config.json" and not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: the model needs it") from error
    except ValueError as error:
        raise UserError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected an object")
    return value


def _download(location: Location) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub.errors import HFValidationError
    except ImportError as error:
        raise UserError(
            f"model {location.model!r} is not a directory, and the hub needs a package that is "
            "missing: pip install 'gpst_jax[codecs]'"
        ) from error
    try:
        return Path(
            huggingface_hub.snapshot_download(
                location.model,
                revision=location.revision,
                allow_patterns=[*_SETTINGS, f"*{_WEIGHTS}", f"*{_WEIGHTS}.index.json"],
            )
        )
    except (OSError, HFValidationError) as error:  # all failures of the hub
        message = str(error).strip().split("\n", 1)[0]
        raise UserError(
            f"model {location.model!r} is not a directory and cannot be downloaded from the hub "
            f"({type(error).__name__}: {message}): download it on another machine, and name its "
            "directory"
        ) from error


def _require_safetensors(directory: Path, location: Location) -> None:
    names = sorted(path.name for path in directory.iterdir())
    if any(name.endswith(_WEIGHTS) for name in names):
        return
    pickles = [name for name in names if name.endswith(_PICKLES)]
    held = f"only pickles ({', '.join(pickles)})" if pickles else "no weights"
    raise UserError(
        f"model {location.model} (revision {location.revision or 'main'}) holds {held} and no "
        f"{_WEIGHTS} file: choose a revision that has one (often revision=refs/pr/1), or download "
        "the model and run python -m data_pipeline.convert_weights --model=DIR --output=DIR"
    )
