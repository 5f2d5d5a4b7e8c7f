"""Shar directories: cuts in `cuts.000000.jsonl.gz`, their audio in `recording.000000.tar`.

Headers of the tars are read once, for the offsets by which audio is read later; lhotse itself
reads shards from end to end.
"""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.runtime.errors import UserError
from data_pipeline.sources.lhotse_manifests.lines import Item, make, read_items

_KINDS = {"cuts": ("jsonl",), "recording": ("tar", "jsonl")}
_NOTHING = (".nodata", ".nometa")  # lhotse's members of cuts that have no audio
_MOST_META = 1 << 20  # bytes of a recording's description


@dataclass
class Stored:
    """The audio of a cut: a member of a tar.

    Attributes:
        tar: the file.
        name: of the member.
        offset: of the member's bytes in the file.
        size: of the member in bytes.
    """

    tar: Path
    name: str
    offset: int
    size: int


@dataclass
class Shard:
    """The recordings of one shard, by the ids of cuts.

    Attributes:
        stored: audio in the tar.
        recordings: descriptions, of lhotse's class Recording.
        problems: what is wrong, by the id of a cut; of the whole file by its name.
    """

    stored: dict[str, Stored] = field(default_factory=dict)
    recordings: dict[str, Any] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def find_shards(directory: Path) -> list[tuple[Path, Path | None]]:
    """The files of cuts in a shar directory, each with that of its recordings, if there is one.

    Raises:
        UserError: there are no cuts, or several files for one shard.
    """
    found: dict[str, dict[str, Path]] = {"cuts": {}, "recording": {}}
    for path in sorted(directory.iterdir()):
        stream, _, rest = path.name.partition(".")
        if stream not in found or not any(kind in rest for kind in _KINDS[stream]):
            continue
        other = found[stream].setdefault(rest.split(".")[0], path)
        if other != path:
            raise UserError(f"{directory} holds {other.name} and {path.name}: remove one of them")
    if not found["cuts"]:
        raise UserError(f"{directory} is no shar directory: it holds no cuts.*.jsonl.gz")
    without = found["recording"].keys() - found["cuts"].keys()
    if without:
        path = found["recording"][min(without)]
        raise UserError(f"{path} has no file of cuts beside it: restore cuts.{min(without)}.*")
    return [(path, found["recording"].get(number)) for number, path in found["cuts"].items()]


def read_shard(path: Path) -> Shard:
    """The recordings of a shard: `recording.N.tar`, or a manifest `recording.N.jsonl.gz`."""
    shard = Shard()
    if ".jsonl" in path.name:
        _read_manifest(path, shard)
        return shard
    try:
        # "r:" rules out compression: offsets must be those in the file.
        with tarfile.open(path, "r:") as file:
            for entry in file:
                if entry.isfile():
                    _collect(path, file, entry, shard)
    except (tarfile.TarError, OSError, EOFError) as error:
        shard.problems[path.name] = (
            f"not an uncompressed tar file, or truncated ({error}): "
            f"{len(shard.stored)} recordings were listed"
        )
    return shard


def _collect(path: Path, file: tarfile.TarFile, entry: tarfile.TarInfo, shard: Shard) -> None:
    """Adds a member: the data of a cut, or the description of its recording."""
    key, dot, suffix = entry.name.rpartition(".")
    if not dot or f".{suffix}" in _NOTHING:
        return
    if suffix != "json" or entry.size > _MOST_META:
        shard.stored.setdefault(key, Stored(path, entry.name, entry.offset_data, entry.size))
        return
    content = file.extractfile(entry)
    try:
        value = json.loads(content.read()) if content else None
    except ValueError as error:
        shard.problems[key] = f"{entry.name} is not JSON: {error}"
        return
    _describe(key, make(entry.name, value if isinstance(value, dict) else {}), shard)


def _read_manifest(path: Path, shard: Shard) -> None:
    for item in read_items(path, deserialize=False):
        if item.problem:
            shard.problems[item.where] = item.problem
            continue
        value = item.value.get("recording")
        if isinstance(value, dict):
            _describe(str(item.value.get("cut_id")), make(item.where, value), shard)


def _describe(key: str, item: Item, shard: Shard) -> None:
    if item.problem or not hasattr(item.value, "sources"):
        shard.problems[key] = item.problem or f"{item.where} describes no recording"
    else:
        shard.recordings.setdefault(key, item.value)


def unused(shard: Shard, used: set[str]) -> Iterator[tuple[str, str]]:
    """What of a shard no cut names, and what is wrong with the file: keys and reasons."""
    for key in sorted({*shard.stored, *shard.problems} - used):
        yield key, shard.problems.get(key, "no cut of the shard has this recording")
