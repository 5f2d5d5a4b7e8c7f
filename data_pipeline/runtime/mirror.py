"""A local directory for a folder of a bucket: files are appended to here and uploaded as a whole.

Objects cannot grow. A run therefore writes metrics, event files and its other small files to a
mirror, `$GPST_MIRROR/BUCKET/NAME` (default: `~/.cache/gpst_jax/mirror`). What has changed is
uploaded in the background, every few seconds, and before each checkpoint: what a checkpoint's step
needs is in the bucket before the checkpoint counts. At a start the bucket decides: another host has
no mirror yet, and an older one may be of a former life of the run. A local folder is its own
mirror.

Programs that make many files, such as samples, write into `outputs`: the folder of the bucket is
kept as the local one is, in the order in which files were written, so that a manifest is there only
after what it lists. What is made as a whole, such as an export, is `made` here and then uploaded.
"""

import contextlib
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Self

from data_pipeline.runtime import bucket_claim, buckets
from data_pipeline.runtime.buckets import Location
from data_pipeline.runtime.claim import CLAIM_FILE
from data_pipeline.runtime.endings import one_line
from data_pipeline.runtime.errors import UserError

logger = logging.getLogger(__name__)

VARIABLE = "GPST_MIRROR"
UPLOAD_SECONDS = 10.0  # a bucket takes one write of an object a second, and each is paid for
IDENTITY = "run_id"  # a mirror with another one is of another run
# `checkpoints` are written by Orbax; a database of `trackio` is never whole while it is open.
_CHECKPOINTS = "checkpoints"
_ELSEWHERE = (_CHECKPOINTS, "damaged_checkpoints", "trackio")
# A new start adds files, and reads none.
_WRITTEN_ONLY = ("tensorboard", "profile", "evaluation")
_OUTPUTS = ".outputs"  # beside the mirrors of runs, in whose folders outputs may be
_TEMPORARY = (".tmp", ".part", ".partial")
_INCOMPLETE = ".incomplete"  # in a folder while it is uploaded as a whole
_SETTLED_NS = 10**8  # a scan finds all that was there when it began: later files may be missed
_LARGE = 64 << 20  # bytes, above which a file is not held in memory


def local_directory(folder: Location, kind: str = "") -> Path:
    """Where the files of a folder are written: in itself, or in its mirror."""
    if not buckets.is_bucket(folder):
        return Path(folder)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    root = os.environ.get(VARIABLE) or os.path.join(cache, "gpst_jax", "mirror")
    return Path(root, kind, *buckets.bucket_and_name(folder)).absolute()


class Mirror:
    """Keeps a folder of a bucket as its local directory is; of a local folder, does nothing.

    One process writes a folder, see `bucket_claim`; only it has an open mirror.

    Args:
        folder: `gs://BUCKET/NAME`, or a local directory.
        seconds: between uploads in the background.
        exact: the folder is that of a program's outputs, not of a run: all files are kept, hidden
            ones too, and what is removed here is removed there.
    """

    def __init__(self, folder: Location, seconds: float = UPLOAD_SECONDS, *, exact: bool = False):
        self.folder = os.fspath(folder).rstrip("/")
        self.local = local_directory(folder, _OUTPUTS if exact else "")
        self._remote, self._seconds, self._exact = buckets.is_bucket(folder), seconds, exact
        self._uploaded: dict[str, tuple[int, int]] = {}  # size and time of change, by name
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="mirror", daemon=True)

    def open(self) -> Self:
        """Brings the directory to the state of the bucket, then uploads until `close`.

        Raises:
            BucketError: the bucket does not answer.
        """
        if self._remote:
            if self._exact:
                self._match()
            else:
                self._fetch()
            self._thread.start()
        return self

    def _match(self) -> None:
        """Makes the directory what the bucket holds; what is equal already is not copied."""
        listed = buckets.listing(self.folder)
        stored = {name: found for name, found in listed.items() if self._keeps(name)}
        if not stored:
            shutil.rmtree(self.local, ignore_errors=True)
        self.local.mkdir(parents=True, exist_ok=True)
        for name in self._scan().keys() - stored.keys():
            (self.local / name).unlink()
        for name, (size, tag) in stored.items():
            path = self.local / name
            same = path.is_file() and path.stat().st_size == size
            if not same or buckets.content_tag(path) != tag:
                buckets.download(f"{self.folder}/{name}", path)
            self._uploaded[name] = _state(path)

    def _fetch(self) -> None:
        stored = buckets.files(self.folder)
        if self._identity() != self._stored_identity(stored):
            shutil.rmtree(self.local, ignore_errors=True)
        self.local.mkdir(parents=True, exist_ok=True)
        for name, size in stored.items():
            path = self.local / name
            if self._keeps(name) and name.split("/")[0] not in _WRITTEN_ONLY:
                buckets.download(f"{self.folder}/{name}", path)
            if path.is_file() and path.stat().st_size == size:
                self._uploaded[name] = _state(path)

    def _identity(self) -> bytes | None:
        with contextlib.suppress(FileNotFoundError):
            return (self.local / IDENTITY).read_bytes()
        return None

    def _stored_identity(self, stored: dict[str, int]) -> bytes | None:
        return buckets.read(f"{self.folder}/{IDENTITY}") if IDENTITY in stored else None

    def upload(self) -> None:
        """Everything that has been written is in the bucket when this returns.

        Raises:
            BucketError: the bucket does not answer, or refuses.
        """
        self._upload(settled=False)

    def _upload(self, settled: bool) -> None:
        """Uploads what has changed, in the order of the changes.

        Args:
            settled: leave out what is so new that a file written before it may have been missed.
        """
        if not self._remote:
            return
        with self._lock:
            before = time.time_ns() - _SETTLED_NS
            found = self._scan()
            if self._exact:
                self._remove(self._uploaded.keys() - found.keys())
            for name in sorted(found, key=lambda name: (found[name][1], name)):
                state = found[name]
                if self._uploaded.get(name) == state or (settled and state[1] > before):
                    continue
                with contextlib.suppress(FileNotFoundError):  # a temporary file of a library
                    _send(self.local / name, f"{self.folder}/{name}")
                    self._uploaded[name] = state

    def _scan(self) -> dict[str, tuple[int, int]]:
        """The states of all files that belong to the bucket, by name."""
        found = {}
        for folder, _, names in os.walk(self.local):
            for path in (Path(folder, name) for name in names):
                name = path.relative_to(self.local).as_posix()
                if self._keeps(name):
                    with contextlib.suppress(FileNotFoundError):
                        found[name] = _state(path)
        return found

    def _remove(self, names: Iterable[str]) -> None:
        """Removes objects, the one that was written last first: it may list the others."""
        for name in sorted(names, key=lambda name: self._uploaded[name][1], reverse=True):
            buckets.remove(f"{self.folder}/{name}")
            del self._uploaded[name]

    def _keeps(self, name: str) -> bool:
        """Whether a file belongs to the bucket."""
        if not self._exact:
            return _kept(name)
        last = name.rsplit("/", 1)[-1]
        return last != CLAIM_FILE and not last.endswith(_TEMPORARY)

    def close(self) -> None:
        """Uploads what is left, and ends; raises as `upload`."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
        self.upload()

    def _keep(self) -> None:
        failing = False
        while not self._closed.wait(self._seconds):
            try:
                self._upload(settled=self._exact)
                failing = False
            except OSError as error:  # the next checkpoint reports it, if it lasts
                if not failing:
                    logger.warning("%s is not uploaded: %s", self.folder, one_line(error))
                failing = True


def _kept(name: str) -> bool:
    """Whether a file belongs to the bucket: not what is written elsewhere, hidden or temporary."""
    parts = name.split("/")
    if parts[0] in _ELSEWHERE or name.endswith(".tmp"):
        return False
    return not any(part.startswith(".") for part in parts)


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _send(path: Path, target: str) -> None:
    """Copies a file, which may be growing, to an object."""
    if path.stat().st_size > _LARGE:
        buckets.upload(path, target)
    else:
        buckets.write(target, path.read_bytes())


@contextlib.contextmanager
def outputs(folder: Location) -> Iterator[Path]:
    """Yields the local directory in which a program writes its outputs.

    In a bucket, the folder is claimed, what it holds is there at the beginning, and what is written
    is uploaded every few seconds and at the end.

    Raises:
        UserError: another process writes there, or the bucket does not let this one write.
        BucketError: the bucket does not answer.
    """
    if not buckets.is_bucket(folder):
        yield Path(folder)
        return
    buckets.check_writable(folder)
    with bucket_claim.claimed(folder):
        mirror = Mirror(folder, exact=True).open()
        try:
            yield mirror.local
        except BaseException:
            with contextlib.suppress(OSError):  # what ended the program is what is reported
                mirror.close()
            raise
        mirror.close()


@contextlib.contextmanager
def output_file(path: Location) -> Iterator[Path]:
    """Yields the local path of a file; in a bucket, it and files beside it are uploaded at the end.

    Raises:
        UserError: the bucket does not let this process write.
        BucketError: the bucket does not answer.
    """
    if not buckets.is_bucket(path):
        yield Path(path)
        return
    parent, _, name = os.fspath(path).rpartition("/")
    buckets.bucket_and_name(path)
    buckets.check_writable(path)
    with tempfile.TemporaryDirectory(prefix="gpst-output-") as directory:
        yield Path(directory) / name
        for file in sorted(Path(directory).iterdir()):
            _send(file, f"{parent}/{file.name}")


def check_new(folder: Location) -> None:
    """Raises UserError where a folder that is to be `made` exists; a part of one does not count."""
    stored = buckets.files(folder) if buckets.is_bucket(folder) else {}
    if stored and _INCOMPLETE not in stored:
        raise UserError(f"{os.fspath(folder)} exists: name another --output or remove it")


def check_complete(folder: Location, names: Collection[str]) -> None:
    """Raises UserError where `made` has not finished a folder of a bucket that holds `names`."""
    if _INCOMPLETE in names:
        raise UserError(
            f"{os.fspath(folder)}: its upload has not finished: run the command that writes it "
            "again"
        )


@contextlib.contextmanager
def made(folder: Location) -> Iterator[Path]:
    """Yields the local directory in which a folder is made; in a bucket it is uploaded at the end.

    It then replaces what was there. Until it is complete, it does not count: see `check_complete`.

    Raises:
        UserError: another process writes there, or the bucket does not let this one write.
        BucketError: the bucket does not answer.
    """
    if not buckets.is_bucket(folder):
        yield Path(folder)
        return
    buckets.check_writable(folder)
    local = local_directory(folder, _OUTPUTS)
    with bucket_claim.claimed(folder):
        shutil.rmtree(local, ignore_errors=True)
        local.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield local
            _replace(os.fspath(folder).rstrip("/"), local)
        finally:
            shutil.rmtree(local, ignore_errors=True)


def _replace(folder: str, local: Path) -> None:
    """Makes a folder of a bucket a copy of a directory; checkpoints in it are committed."""
    before = buckets.files(folder).keys() - {_INCOMPLETE, CLAIM_FILE}
    buckets.write(f"{folder}/{_INCOMPLETE}", b"")
    for name in sorted(before, key=lambda name: not name.endswith(buckets.COMMIT_FILE)):
        buckets.remove(f"{folder}/{name}")
    for path in sorted(path for path in local.rglob("*") if path.is_file()):
        _send(path, f"{folder}/{path.relative_to(local).as_posix()}")
    for step in sorted(local.glob(f"{_CHECKPOINTS}/*/")):
        buckets.write(f"{folder}/{_CHECKPOINTS}/{step.name}/{buckets.COMMIT_FILE}", b"")
    buckets.remove(f"{folder}/{_INCOMPLETE}")
