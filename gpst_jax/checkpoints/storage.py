"""Storage failures, as errors distinct from those of the run itself, and unusable names."""

import glob
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipeline.runtime.buckets import SCHEME, is_bucket
from data_pipeline.runtime.endings import FULL
from data_pipeline.runtime.errors import UserError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


class StorageError(Exception):
    """Something could not be written or read back; the message names the path and the cause."""


@contextmanager
def storing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Converts an OSError in the body to a StorageError that names `path` and the remedy."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error


def storage_error(path: str | os.PathLike[str], cause: BaseException) -> StorageError:
    """The StorageError for a write to `path` that failed."""
    reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return StorageError(
        f"cannot write {os.fspath(path)}: {reason}; {FULL}: it continues from the newest checkpoint"
    )


def check_name(directory: str | os.PathLike[str]) -> None:
    """Refuses a directory in which checkpoints would be written but could not be read.

    Orbax takes the complete path as a pattern when it joins what the processes have written: with
    `[`, `*`, `?` or a backslash in it, it finds nothing, or what another run has written. A folder
    named like a URL, such as `gs:`, is taken for one, and TensorStore takes only UTF-8.

    Raises:
        UserError: the absolute path has such a name in it.
    """
    remote = is_bucket(directory)
    path = os.fspath(directory) if remote else str(Path(directory).absolute())
    bad = sorted({character for character in path if glob.escape(character) != character})
    if "\\" in path:
        bad.append("\\")
    what = ", ".join(bad)
    if _SCHEME.search(path.removeprefix(SCHEME if remote else "") + "/"):
        what = "a folder whose name ends in ':'"
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        what = "bytes that are not UTF-8"
    if what:
        shown = path.encode("utf-8", "backslashreplace").decode()
        raise UserError(
            f"{shown}: checkpoints cannot be kept under a path with {what}: choose another "
            "directory"
        )
