"""A local directory for a folder of a bucket: files are appended to here and uploaded as a whole.

Objects cannot grow. A run therefore writes metrics, event files and its other small files to a
mirror, `$GPST_MIRROR/BUCKET/NAME` (default: `~/.cache/gpst_jax/mirror`). What has changed is
uploaded in the background, every few seconds, and before each checkpoint: what a checkpoint's step
needs is in the bucket before the checkpoint counts. At a start the bucket decides: another host has
no mirror yet, and an older one may be of a former life of the run. A local folder is its own
mirror.
"""

import contextlib
import logging
import os
import shutil
import threading
from pathlib import Path
from typing import Self

from data_pipeline.runtime import buckets
from data_pipeline.runtime.buckets import Location
from data_pipeline.runtime.endings import one_line

logger = logging.getLogger(__name__)

VARIABLE = "GPST_MIRROR"
UPLOAD_SECONDS = 10.0  # a bucket takes one write of an object a second, and each is paid for
IDENTITY = "run_id"  # a mirror with another one is of another run
# `checkpoints` are written by Orbax; a database of `trackio` is never whole while it is open.
_ELSEWHERE = ("checkpoints", "damaged_checkpoints", "trackio")
_WRITTEN_ONLY = ("tensorboard", "profile")  # a new start adds files, and reads none


def local_directory(folder: Location) -> Path:
    """Where the files of a folder are written: in itself, or in its mirror."""
    if not buckets.is_bucket(folder):
        return Path(folder)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    root = os.environ.get(VARIABLE) or os.path.join(cache, "gpst_jax", "mirror")
    return Path(root, *buckets.bucket_and_name(folder)).absolute()


class Mirror:
    """Keeps a folder of a bucket as its local directory is; of a local folder, does nothing.

    One process writes a folder, see `bucket_claim`; only it has an open mirror.

    Args:
        folder: `gs://BUCKET/NAME`, or a local directory.
        seconds: between uploads in the background.
    """

    def __init__(self, folder: Location, seconds: float = UPLOAD_SECONDS):
        self.folder, self.local = os.fspath(folder).rstrip("/"), local_directory(folder)
        self._remote, self._seconds = buckets.is_bucket(folder), seconds
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
            self._fetch()
            self._thread.start()
        return self

    def _fetch(self) -> None:
        stored = buckets.files(self.folder)
        if self._identity() != self._stored_identity(stored):
            shutil.rmtree(self.local, ignore_errors=True)
        self.local.mkdir(parents=True, exist_ok=True)
        for name, size in stored.items():
            path = self.local / name
            if _kept(name) and name.split("/")[0] not in _WRITTEN_ONLY:
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
        if not self._remote:
            return
        with self._lock:
            for path in sorted(self.local.rglob("*")):
                name = path.relative_to(self.local).as_posix()
                if not _kept(name) or not path.is_file():
                    continue
                try:
                    state = _state(path)
                    if self._uploaded.get(name) == state:
                        continue
                    data = path.read_bytes()
                except FileNotFoundError:
                    continue  # a temporary file of a library
                buckets.write(f"{self.folder}/{name}", data)
                self._uploaded[name] = state

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
                self.upload()
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
