"""Storage failures, as errors distinct from those of the run itself."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


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
        f"cannot write {os.fspath(path)}: {reason}; make room or restore access, then run the same "
        "command again: it continues from the newest checkpoint"
    )
