"""Copies of datasets, and of exported models, in buckets: one for all processes of a host.

What is small (`dataset.json`, indices, tokenizers) is copied when a dataset is opened. A shard is
copied when a record of it is read first, or before that in the background. Rows are drawn from the
whole split, so that a cache smaller than a dataset would copy without end: it is refused. Datasets
that no process reads any more, the least recently opened first, make room for others.

An exported model is copied as a whole; it is another copy if any of its files is another.

`dataset.json` names one checksum for all shards of a split: it is compared when the last of them
has come. A shard's size is compared at once.
"""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Self

from data_pipeline.datasets.dataset_json import SPEC_FILE
from data_pipeline.runtime import buckets, mirror
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import file_sha256, write_json, write_text

logger = logging.getLogger(__name__)

SOURCE_FILE = ".bucket.json"  # in a copy, written when all but the shards is there
_USED, _DIGESTS = ".used", ".digests"
_SHARD = ".array_record-"
_NOT_COPIED = {"failures.jsonl"}
_GIB = 1 << 30
DEFAULT_GIB = 200.0


@dataclasses.dataclass
class Cache:
    """Where copies are kept.

    Attributes:
        directory: of all copies; made when missing.
        gib: how much they may hold together, in GiB.
    """

    directory: Path
    gib: float = DEFAULT_GIB

    def open(self, source: str) -> Path:
        """The copy of a dataset, complete but for its shards.

        Args:
            source: gs://BUCKET/NAME of the dataset.

        Raises:
            UserError: there is no dataset, or it does not fit.
            BucketError: the bucket does not answer.
        """
        spec = buckets.read(f"{source}/{SPEC_FILE}")
        return self._use(source, spec, lambda copy: self._begin(source, spec, copy))

    def open_whole(self, source: str) -> Path:
        """The copy of a folder with all of its files.

        Args:
            source: gs://BUCKET/NAME of the folder.

        Raises:
            UserError: there is nothing, it is not complete yet, or it does not fit.
            BucketError: the bucket does not answer.
        """
        stored = buckets.listing(source)
        if not stored:
            raise UserError(f"{source}: no such directory")
        mirror.check_complete(source, stored)
        key = json.dumps(sorted(stored.items())).encode()
        return self._use(source, key, lambda copy: self._copy_whole(source, stored, copy))

    def _use(self, source: str, content: bytes, begin: Callable[[Path], None]) -> Path:
        """The copy of a folder, which `begin` makes; it is kept as long as this process runs."""
        key = hashlib.sha256(source.encode() + b"\0" + content).hexdigest()[:12]
        copy = self.directory / f"{source.rsplit('/', 1)[-1]}-{key}"
        self.directory.mkdir(parents=True, exist_ok=True)
        with _locked(self.directory / ".lock"):
            copy.mkdir(exist_ok=True)
            if not (copy / SOURCE_FILE).is_file():
                begin(copy)
            os.utime(copy / SOURCE_FILE)
            used = (copy / _USED).open("a")
            fcntl.flock(used, fcntl.LOCK_SH)
        _held.append(used)
        return copy

    def _begin(self, source: str, spec: bytes, copy: Path) -> None:
        stored = buckets.files(source)
        shards = {name: size for name, size in stored.items() if _SHARD in name}
        self._make_room(source, sum(shards.values()), copy)
        for name in stored:
            if name not in shards and name not in _NOT_COPIED and not _is_hidden(name):
                buckets.download(f"{source}/{name}", copy / name)
        (copy / SPEC_FILE).write_bytes(spec)
        write_json(copy / SOURCE_FILE, {"source": source, "shards": shards})

    def _copy_whole(self, source: str, stored: dict[str, buckets.Stored], copy: Path) -> None:
        sizes = {name: found.size for name, found in stored.items()}
        self._make_room(source, sum(sizes.values()), copy)
        for name, size in sizes.items():
            buckets.download(f"{source}/{name}", copy / name)
            if (copy / name).stat().st_size != size:
                raise UserError(f"{source}/{name} has just been written anew: try again")
        write_json(copy / SOURCE_FILE, {"source": source, "shards": sizes})

    def _make_room(self, source: str, needed: int, copy: Path) -> None:
        limit = int(self.gib * _GIB)
        if needed > limit:
            raise UserError(
                f"{source}: its files are {needed / _GIB:.1f} GiB, the cache in {self.directory} "
                f"may hold {self.gib:g} GiB: raise --data_cache_gib, or mount the bucket"
            )
        others = [path.parent for path in self.directory.glob(f"*/{SOURCE_FILE}")]
        others.sort(key=lambda other: (other / SOURCE_FILE).stat().st_mtime)
        held = {other: _promised(other) for other in others if other != copy}
        for other in list(held):
            if sum(held.values()) + needed <= limit:
                break
            if _remove_unused(other):
                del held[other]
        if sum(held.values()) + needed > limit:
            raise UserError(
                f"{source}: {needed / _GIB:.1f} GiB do not fit into the cache in {self.directory} "
                f"beside {', '.join(str(other) for other in held)}, which other processes read: "
                "raise --data_cache_gib, or give another --data_cache"
            )
        free = shutil.disk_usage(self.directory).free
        if needed > free:
            raise UserError(
                f"{source}: {needed / _GIB:.1f} GiB are needed in {self.directory}, "
                f"{free / _GIB:.1f} are free: make room, or give another --data_cache"
            )


class Shards:
    """The shards of a split of a copy; they come as they are needed. Safe to use from threads.

    Args:
        copy: directory of the copy.
        names: of the split's shards, in order.
        sha256: over their digests, as `SplitSpec.shards_sha256`.
    """

    def __init__(self, copy: Path, names: list[str], sha256: str):
        about = json.loads((copy / SOURCE_FILE).read_text(encoding="utf-8"))
        self._copy, self._source, self._sizes = copy, about["source"], about["shards"]
        self._names, self._sha256 = names, sha256
        self._here: set[str] = set()
        self._failure: UserError | None = None  # found by the thread that copies in the background
        threading.Thread(target=self._copy_all, name="data-cache", daemon=True).start()

    @classmethod
    def of(cls, dataset_dir: Path, split: str, names: list[str]) -> Self | None:
        """The shards of a split; None where the directory is not a copy."""
        if not (dataset_dir / SOURCE_FILE).is_file():
            return None
        spec = json.loads((dataset_dir / SPEC_FILE).read_text(encoding="utf-8"))
        return cls(dataset_dir, names, spec["splits"][split]["shards_sha256"])

    def need(self, name: str) -> None:
        """Returns once a shard is here.

        Raises:
            UserError: it is not what `dataset.json` describes.
            BucketError: the bucket does not answer.
        """
        if self._failure is not None:
            raise self._failure
        if name not in self._here:
            self._get(name)

    def _get(self, name: str) -> None:
        path = self._copy / name
        digest = self._copy / _DIGESTS / name
        with _locked(self._copy / f".{name}.lock"):
            if self._failure is not None:
                raise self._failure
            if not path.is_file():
                source = f"{self._source}/{name}"
                buckets.download(source, path)
                if path.stat().st_size != self._sizes.get(name):
                    path.unlink()
                    raise UserError(f"{source} is not the shard that was there before: {_REMEDY}")
            if not digest.is_file():
                write_text(digest, file_sha256(path))
                self._compare()
        self._here.add(name)

    def _compare(self) -> None:
        """Compares the checksum of the split once all of its shards have been here."""
        files = [self._copy / _DIGESTS / name for name in self._names]
        if not all(file.is_file() for file in files):
            return
        text = "\n".join(file.read_text(encoding="utf-8") for file in files)
        if hashlib.sha256(text.encode()).hexdigest() != self._sha256:
            for name, file in zip(self._names, files, strict=True):
                (self._copy / name).unlink(missing_ok=True)
                file.unlink(missing_ok=True)
            self._failure = UserError(
                f"{self._source}: the shards are not those that {SPEC_FILE} describes: {_REMEDY}"
            )
            raise self._failure

    def _copy_all(self) -> None:
        for name in self._names:
            try:
                self.need(name)
            except (OSError, UserError) as error:
                logger.warning("%s", error)
                return  # whoever reads the shard gets the error


_REMEDY = "upload the dataset again"
_cache: Cache | None = None
_held: list[IO[str]] = []  # locks of the copies that this process reads, until its end


def configure(directory: str | None, gib: float) -> None:
    """Sets where and how much this process keeps; None: `~/.cache/gpst_jax/datasets`."""
    global _cache
    _cache = Cache(Path(directory) if directory else _default(), gib)


def local_dataset(path: str) -> str:
    """The directory of a dataset: of its copy, where it is in a bucket.

    Raises:
        UserError: there is no dataset in the bucket, or it does not fit into the cache.
        BucketError: the bucket does not answer.
    """
    return str(_opened(path.rstrip("/"))) if buckets.is_bucket(path) else path


@functools.cache
def local_folder(path: str) -> str:
    """The directory with the files of an exported model: of its copy, where it is in a bucket.

    Raises:
        UserError: there is none in the bucket, or it does not fit into the cache.
        BucketError: the bucket does not answer.
    """
    if not buckets.is_bucket(path):
        return path
    return str((_cache or Cache(_default())).open_whole(path.rstrip("/")))


def exists(path: str) -> bool:
    """Whether there is something of this name, here or in a bucket: a dataset or a mixture."""
    with buckets.access(path):
        return bool(path) and buckets.location(path).exists()


@functools.cache
def _opened(source: str) -> Path:
    try:
        return (_cache or Cache(_default())).open(source)
    except FileNotFoundError as error:
        raise UserError(
            f"{source}/{SPEC_FILE} does not exist: name a folder that holds a dataset"
        ) from error


def _default() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache, "gpst_jax", "datasets")


def _promised(copy: Path) -> int:
    """What a copy holds when all its shards have come, in bytes."""
    about: dict[str, Any] = json.loads((copy / SOURCE_FILE).read_text(encoding="utf-8"))
    return sum(about["shards"].values())


def _remove_unused(copy: Path) -> bool:
    """Removes a copy that no process reads; returns whether it did."""
    with open(copy / _USED, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        (copy / SOURCE_FILE).unlink()
        shutil.rmtree(copy)
    return True


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
