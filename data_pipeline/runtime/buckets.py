"""Files in buckets: `gs://BUCKET/NAME` where a path is expected.

etils.epath gives objects the interface of paths, gcsfs carries them. What a file system gives and a
bucket does not has these substitutes:

* atomic rename: an object is whole or absent, so that writing one is atomic; a folder of objects
  counts by its commit file, which is written last;
* append: files grow in a local directory, and are uploaded as a whole, see `mirror`; so is all that
  a program makes piece by piece;
* locks: a write that names the generation of the object that it replaces, see `bucket_claim`;
* directories: a folder is where objects are; there is none without objects.

`STORAGE_EMULATOR_HOST` and `TENSORSTORE_GCS_HTTP_URL` name a server on this machine, for tests.
"""

import base64
import contextlib
import errno
import functools
import hashlib
import importlib
import logging
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from data_pipeline.runtime.endings import one_line
from data_pipeline.runtime.errors import UserError

SCHEME = "gs://"
EMULATOR = "STORAGE_EMULATOR_HOST"
COMMIT_FILE = "commit_success.txt"  # of Orbax: without it, what a folder holds does not count
_LONGEST = 300
_CONNECT_SECONDS, _SILENT_SECONDS = 30, 60  # of a request; it is then sent again

Location = str | os.PathLike[str]


class BucketError(OSError):
    """A bucket does not answer, or refuses; the message is one line."""


class Stored(NamedTuple):
    """An object.

    Attributes:
        size: in bytes.
        tag: the MD5 of its content in base 64, see `content_tag`, or something else that changes
            with it.
    """

    size: int
    tag: str


def is_bucket(path: Location) -> bool:
    """Whether a path is in a bucket."""
    return os.fspath(path).startswith(SCHEME)


def location(path: Location) -> Any:
    """The path as an object with the methods of `pathlib.Path`, in a bucket or here.

    Raises:
        UserError: it is in a bucket, and what reads buckets is not installed.
    """
    if not is_bucket(path):
        return Path(path)
    file_system(path)
    return importlib.import_module("etils.epath").Path(os.fspath(path))


def bucket_and_name(path: Location) -> tuple[str, str]:
    """The bucket, and the name in it without slashes at its ends.

    Raises:
        UserError: there is no bucket or no name in the path.
    """
    bucket, _, name = os.fspath(path).removeprefix(SCHEME).partition("/")
    name = name.strip("/")
    if not bucket or not name or "//" in name:
        raise UserError(f"{os.fspath(path)}: give gs://BUCKET/NAME")
    return bucket, name


def file_system(path: Location) -> Any:
    """The file system of fsspec that epath uses too; `path` is named where it is not installed."""
    try:
        return _file_system()
    except ImportError as error:
        raise UserError(
            f"{os.fspath(path)}: pip install 'gpst_jax[gcs]' is needed for buckets ({error})"
        ) from error


@functools.cache
def _file_system() -> Any:
    os.environ.setdefault("EPATH_USE_TF", "0")  # one way to buckets, whatever is installed
    emulated = bool(os.environ.get(EMULATOR))
    if emulated:  # which kind of bucket it is, would be asked by another protocol
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    fsspec = importlib.import_module("fsspec")
    importlib.import_module("gcsfs")
    settings = fsspec.config.conf.setdefault("gcs", {})
    settings.setdefault("use_listings_cache", False)  # other processes write too
    # A server that takes a request and is silent must not hold a run for ever.
    timeout = importlib.import_module("aiohttp").ClientTimeout
    settings.setdefault(
        "requests_timeout",
        timeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENT_SECONDS),
    )
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", str(_SILENT_SECONDS))
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")
    if emulated:
        settings.setdefault("token", "anon")
    # It logs the tracebacks of what it raises, and at every call that there are no credentials.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    return fsspec.filesystem("gcs", finalize_on_close=True)


@contextlib.contextmanager
def access(path: Location) -> Iterator[None]:
    """Turns what libraries raise in the body to a BucketError that names `path`.

    FileNotFoundError and UserError pass, and so does every error where `path` is not in a bucket.
    """
    try:
        yield
    except (FileNotFoundError, UserError, BucketError):
        raise
    except Exception as error:
        if not is_bucket(path):
            raise
        reason = one_line(error)[:_LONGEST]
        raise BucketError(errno.EIO, reason, os.fspath(path)) from error


def files(folder: Location) -> dict[str, int]:
    """The sizes in bytes of all files below a folder, by their names in it; one listing."""
    if not is_bucket(folder):
        root = Path(folder)
        found = [path for path in root.rglob("*") if path.is_file()]
        return {path.relative_to(root).as_posix(): path.stat().st_size for path in found}
    return {name: stored.size for name, stored in listing(folder).items()}


def listing(folder: Location) -> dict[str, Stored]:
    """All objects below a folder of a bucket, by their names in it; one listing."""
    start = "/".join(bucket_and_name(folder)) + "/"
    with access(folder):
        found = file_system(folder).find(start, detail=True)
    objects = {}
    for path, info in found.items():
        name = path.removeprefix(start)
        if name and not name.endswith("/"):
            tag = info.get("md5Hash") or f"generation {info.get('generation')}"
            objects[name] = Stored(int(info["size"]), tag)
    return objects


def content_tag(path: Path) -> str:
    """What `Stored.tag` is of an object with the content of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return base64.b64encode(digest.digest()).decode()


def modified(path: Location) -> float:
    """When a file, or a committed folder in a bucket, was written last, in seconds since the epoch.

    Raises:
        FileNotFoundError: there is none.
    """
    if not is_bucket(path):
        return Path(path).stat().st_mtime
    with access(path):
        return file_system(path).modified(f"{os.fspath(path)}/{COMMIT_FILE}").timestamp()


def read(path: Location) -> bytes:
    """The content of an object; raises FileNotFoundError where there is none."""
    with access(path):
        return file_system(path).cat_file(os.fspath(path))


def write(path: Location, data: bytes) -> None:
    """Writes an object: readers see the old content or the new."""
    with access(path):
        file_system(path).pipe_file(os.fspath(path), data)


def upload(source: Path, target: Location) -> None:
    """Copies a file of any size to an object, which has its old content until it is complete."""
    with access(target):
        file_system(target).put_file(str(source), os.fspath(target))


def remove(path: Location) -> None:
    """Removes an object, if it is there."""
    with access(path), contextlib.suppress(FileNotFoundError):
        file_system(path).rm_file(os.fspath(path))


def download(source: Location, target: Path) -> None:
    """Copies an object to a file, which is whole or absent."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name[:40]}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with access(source):
            file_system(source).get_file(os.fspath(source), str(temporary))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def move(source: Location, target: Location) -> None:
    """Moves a committed folder to another name in its bucket.

    Objects are copied, then removed. The commit file is the first to go, so that the source does
    not count any more once it is not complete; the copy has it last.
    """
    names = sorted(files(source), key=lambda name: name == COMMIT_FILE)
    with access(source):
        system = file_system(source)
        for name in names:
            system.cp_file(f"{os.fspath(source)}/{name}", f"{os.fspath(target)}/{name}")
        for name in reversed(names):
            system.rm_file(f"{os.fspath(source)}/{name}")


def check_writable(folder: Location) -> None:
    """Writes and removes an object in a folder.

    Raises:
        UserError: the bucket does not exist, or does not let this process write.
        BucketError: it does not answer.
    """
    bucket_and_name(folder)
    probe = f"{os.fspath(folder).rstrip('/')}/.probe-{uuid.uuid4().hex[:8]}"
    try:
        with access(folder):
            file_system(folder).pipe_file(probe, b"")
            file_system(folder).rm_file(probe)
    except FileNotFoundError as error:
        raise UserError(f"{os.fspath(folder)}: there is no such bucket") from error
    except BucketError as error:
        if _refused(error.__cause__):
            raise UserError(f"{os.fspath(folder)}: {error.strerror}") from error
        raise


def _refused(error: BaseException | None) -> bool:
    """Whether a server has answered that it will not."""
    code = str(getattr(error, "code", ""))
    # gcsfs raises a plain OSError for 403.
    return code in ("401", "403", "404") or str(error).startswith("Forbidden:")
