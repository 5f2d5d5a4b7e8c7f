"""What recordings hold: a digest of their bytes, and the file's state that says when to look again.

The rule of git's index: the digest of the bytes decides whether a recording is the same; size and
times of its file only decide whether these bytes are read again. So comparing a corpus costs one
`stat` per recording, and touching a file costs one read of it.
"""

import hashlib
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

import numpy as np

from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.progress import progress

_DIGEST_BYTES = 16
_STATES, _READS = 1000, 8  # recordings that one unit of work of a thread looks at, or reads
_SETTLED_NS = 2 * 10**9  # times of files are coarser than a nanosecond
_MANY = 1000  # recordings to read again: from here on it takes time, and shows progress
_THREADS = 16  # on network file systems they wait, they do not compute

_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)

FileState = tuple[int, int, int]  # size in bytes, times of modification and of change in ns
Item = TypeVar("Item")
Result = TypeVar("Result")


class Content(NamedTuple):
    """What a recording held when it was read.

    Attributes:
        size: of the file that holds it, in bytes; -1 where it could not be read.
        mtime_ns: modification time of the file.
        ctime_ns: time of the last change to the file's contents or its entry: copies that keep the
            modification time (`cp -p`, `rsync -t`) do not keep it.
        digest: BLAKE2b, 128 bits in hex, of the bytes that the recording is decoded from: the file,
            or its member of a container.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    digest: str

    @property
    def state(self) -> FileState:
        """Size and times."""
        return self[:3]

    @classmethod
    def parse(cls, text: str) -> Self:
        """The content that `str` wrote."""
        size, mtime_ns, ctime_ns, digest = text.split(" ")
        return cls(int(size), int(mtime_ns), int(ctime_ns), digest)

    def __str__(self) -> str:
        return " ".join(map(str, self))


def file_state(path: str | os.PathLike[str]) -> FileState:
    """Size and times of a file: while they stay, so does its content. (-1, 0, 0) without one."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return -1, 0, 0
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def digest(data: bytes) -> str:
    """The digest of bytes."""
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


def file_digest(path: str, state: FileState) -> str:
    """The digest of a file in the given state; raises OSError if it cannot be read."""
    if time.time_ns() - max(state[1:]) < _SETTLED_NS:
        return _read_digest(path, state)  # it may be written again without another time
    return _known_digest(path, state)


def _read_digest(path: str, state: FileState) -> str:
    del state
    with open(path, "rb") as file:
        make = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        while block := file.read(1 << 20):
            make.update(block)
    return make.hexdigest()


# Segments share their file. The state is part of the key: another one is another content.
_known_digest = lru_cache(maxsize=65536)(_read_digest)


def in_threads(
    work: Callable[[Item], Result], items: Sequence[Item], block: int = _STATES
) -> Iterator[Result]:
    """The results in order, from threads that take `block` items at a time."""
    blocks = [items[start : start + block] for start in range(0, len(items), block)]
    if len(blocks) < 2:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        for found in pool.map(lambda block: list(map(work, block)), blocks):
            yield from found


def require_unchanged(
    paths: Sequence[str],
    read: Callable[[int], Content],
    stored: Sequence[Content],
    what: str,
    remedy: str,
) -> list[Content]:
    """Compares recordings with what they held; returns what they hold now.

    Args:
        paths: of their files.
        read: returns the content now of the recording at a place in `paths`.
        stored: what each of them held.
        what: was made of them, the beginning of the message.
        remedy: its end.

    Raises:
        UserError: bytes of a recording are others.
    """
    now = list(stored)
    suspects = [
        number
        for number, state in enumerate(in_threads(file_state, paths))
        if state != stored[number].state
    ]
    if suspects:
        many = len(suspects) > _MANY
        with progress("compare recordings", len(suspects)) if many else nullcontext(id) as advance:
            found = in_threads(read, suspects, _READS)
            for number, content in zip(suspects, found, strict=True):
                now[number] = content
                advance(1)
    changed = [number for number in suspects if now[number].digest != stored[number].digest]
    if changed:
        raise UserError(
            f"{what}: the recordings changed: {len(changed)} of {len(paths)} hold something else, "
            f"the first is {paths[changed[0]]}. {remedy}"
        )
    return now


def save(path: Path, contents: Sequence[Content], root: str) -> None:
    """Writes the contents of a corpus, 40 bytes for each recording, atomically.

    Args:
        path: an npz file.
        contents: in the order of the recordings.
        root: directory that their stored paths are relative to.
    """
    states = np.array([content.state for content in contents], np.int64).reshape(-1, 3)
    digests = b"".join(
        bytes.fromhex(content.digest or "00" * _DIGEST_BYTES) for content in contents
    )
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(
                file,
                root=np.array(root, np.str_),
                state=states,
                digest=np.frombuffer(digests, np.uint8).reshape(-1, _DIGEST_BYTES),
            )
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def load(path: Path) -> list[Content]:
    """The contents that `save` wrote.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            rows, digests = file["state"].tolist(), file["digest"]
        return [
            Content(size, mtime_ns, ctime_ns, held.tobytes().hex() if held.any() else "")
            for (size, mtime_ns, ctime_ns), held in zip(rows, digests, strict=True)
        ]
    except _UNREADABLE as error:
        raise UserError(f"{path} cannot be read ({error}): restore it, or delete it") from error


def load_root(path: Path) -> str | None:
    """The `root` that `save` wrote; None where there is no such file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return str(file["root"])
    except _UNREADABLE:
        return None
