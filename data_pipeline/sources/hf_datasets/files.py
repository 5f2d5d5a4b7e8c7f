"""Which files a dataset's configuration and splits are, as the package datasets resolves them."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from data_pipeline.runtime.errors import UserError
from data_pipeline.sources.base import ON_HUB

_READABLE = ("parquet", "arrow")
_INSTEAD = {
    "audiofolder": "folder:",
    "webdataset": "webdataset:",
    "csv": "manifest:",
    "json": "manifest:",
}
_FILE_ON_HUB = re.compile(r"hf://datasets/([^@]+)@([^/]+)/(.+)")
_NUMBERED = re.compile(r"(.*-)(\d{5})(-of-)(\d{5})(\..*)")


def import_datasets() -> Any:
    """Imports `datasets`.

    Raises:
        UserError: it is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"datasets of the hub's layouts need datasets ({error}): "
            "pip install 'gpst_jax[datasets]'"
        ) from error
    return datasets


def data_files(
    dataset: str, config: str, split: str, revision: str, streaming: bool = False
) -> Mapping[str, list[str]]:
    """The Parquet or Arrow files of each split, downloaded where the dataset is on the hub.

    Args:
        dataset: a directory (of `save_to_disk`, or a repository's), or a repository of the hub.
        config: of the dataset; empty where it has one.
        split: several are joined by +; empty means all.
        revision: of the repository; empty is its main branch.
        streaming: leave files on the hub, and name them hf://, with the commit.

    Raises:
        UserError: there is no such dataset, configuration or split, or its files are missing or of
            another kind.
    """
    import_datasets()
    if not os.path.isdir(dataset) and _is_path(dataset):
        raise UserError(f"dataset {dataset!r} is not a directory")
    local = dataset if os.path.isdir(dataset) else _cached(dataset, revision)
    where = os.path.abspath(local) if local else dataset
    found = _resolve(where, config, revision if not local else "")
    wanted = split.split("+") if split else list(found)
    for name in wanted:
        if name not in found:
            raise UserError(f"{dataset}: no split {name!r}, choose from {', '.join(found)}")
    files = {name: found[name] for name in dict.fromkeys(wanted)}
    if not streaming:
        files = {name: [_local(path, revision) for path in paths] for name, paths in files.items()}
    for paths in files.values():
        _require_all_parts(paths)
    return files


def is_remote(path: str) -> bool:
    """Whether a file is on the hub."""
    return path.startswith(ON_HUB)


def open_remote(path: str) -> Any:
    """A file of the hub, which reads the ranges that it is asked for.

    Raises:
        UserError: there is no network, or it is not wanted.
    """
    import huggingface_hub

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise UserError(f"{path} is on the hub, and HF_HUB_OFFLINE is set: download the dataset")
    with network(path):
        return huggingface_hub.HfFileSystem().open(path, "rb", cache_type="none")


@contextlib.contextmanager
def network(path: str) -> Iterator[None]:
    """Turns what goes wrong between us and the hub into a UserError, which ends the run.

    It says nothing about the recording: that must not become a failure.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # The exceptions are those of whichever HTTP library the hub's client uses.
        if not is_remote(path) or type(error).__module__.startswith("pyarrow"):
            raise
        message = str(error).strip().split("\n", 1)[0]
        raise UserError(
            f"{path} cannot be read over the network ({type(error).__name__}: {message}): run "
            "again to go on, or leave out streaming=true to download the files first"
        ) from error


def _is_path(dataset: str) -> bool:
    return dataset.startswith((".", "/", "~")) or dataset.count("/") > 1


def _resolve(where: str, config: str, revision: str) -> dict[str, list[str]]:
    """Files by split; those of the hub are named hf://."""
    import datasets
    from huggingface_hub.errors import HFValidationError

    try:
        builder = datasets.load_dataset_builder(
            where, name=config or None, revision=revision or None
        )
    except (
        OSError,
        ValueError,
        RuntimeError,
        HFValidationError,
        datasets.exceptions.DatasetsError,
    ) as error:
        message = " ".join(str(error).split())[:300]
        hint = ""
        if "script" in message.lower():
            hint = " (code of datasets is never run: name a revision of Parquet files, such as "
            hint += "?revision=refs/convert/parquet)"
        raise UserError(f"dataset {where} cannot be used: {message}{hint}") from error
    kind = type(builder).__module__.split(".")[-1]
    if kind not in _READABLE:
        instead = _INSTEAD.get(kind)
        remedy = f"name it as {instead}..." if instead else "convert it with dataset.to_parquet"
        raise UserError(f"dataset {where} is of kind {kind}, not Parquet or Arrow: {remedy}")
    named = builder.config.data_files or {}
    return {str(split): [str(path) for path in paths] for split, paths in named.items()}


def _cached(dataset: str, revision: str) -> str:
    """Offline, the directory of a repository in the hub's cache; else nothing."""
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    if not huggingface_hub.constants.HF_HUB_OFFLINE:
        return ""
    try:
        return huggingface_hub.snapshot_download(
            dataset, repo_type="dataset", revision=revision or None, local_files_only=True
        )
    except (OSError, HFValidationError) as error:
        raise UserError(
            f"dataset {dataset!r} is not a directory, nor in the hub's cache, and HF_HUB_OFFLINE "
            "is set: download it where there is a network (hf download --repo-type dataset "
            f"{dataset}), and name its directory"
        ) from error


def _local(path: str, revision: str) -> str:
    """A file, downloaded into the hub's cache if it is named hf://; finished downloads are kept."""
    if not is_remote(path):
        return path
    import huggingface_hub

    at = _FILE_ON_HUB.fullmatch(path)
    if at is None:
        raise UserError(f"{path} is in no repository of datasets: download it, and name its folder")
    repository, commit, inside = map(unquote, at.groups())
    try:
        # By the name of the revision, under which the cache then knows it offline.
        found = huggingface_hub.hf_hub_download(
            repository, inside, repo_type="dataset", revision=revision or "main"
        )
    except (OSError, ValueError) as error:
        message = str(error).strip().split("\n", 1)[0]
        raise UserError(
            f"{path} cannot be downloaded ({type(error).__name__}: {message}): run again to go on, "
            "or download it on another machine, and name its folder"
        ) from error
    if commit not in Path(found).parts:
        raise UserError(
            f"dataset {repository} was changed on the hub while it was downloaded: run again, or "
            f"name a commit, ?revision={commit}"
        )
    return found


def _require_all_parts(paths: list[str]) -> None:
    """Names like train-00002-of-00005.parquet say how many files there must be."""
    listed = {path for path in paths if is_remote(path) or os.path.isfile(path)}
    for path in paths:
        if path not in listed:
            raise UserError(f"{path} is missing: restore it")
        folder, _, name = path.rpartition("/")
        numbered = _NUMBERED.fullmatch(name)
        if numbered is None:
            continue
        head, _, of, count, tail = numbered.groups()
        for number in range(int(count)):
            part = f"{folder}/{head}{number:05d}{of}{count}{tail}"
            if part not in listed:
                raise UserError(f"{part} is missing: {name} says that there are {int(count)}")
