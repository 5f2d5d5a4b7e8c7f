"""Atomic file writes, and file digests."""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from data_pipeline.runtime import buckets
from data_pipeline.runtime.errors import UserError


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a UTF-8 text file atomically: readers see the old content or the new, never a part.

    Missing parent directories are created. The file may be in a bucket.

    Raises:
        UserError: the file cannot be written.
        OSError: the storage failed while it was written.
    """
    if buckets.is_bucket(path):
        buckets.write(path, text.encode("utf-8"))
        return
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".tmp"
        )
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            # mkstemp creates files with mode 0600; restore what the umask gives.
            umask = os.umask(0)
            os.umask(umask)
            os.fchmod(file.fileno(), 0o666 & ~umask)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # the system does not name a file that it was writing
        raise


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Writes ``obj`` as indented JSON, atomically (see :func:`write_text`).

    Raises:
        UserError: the file cannot be written.
        ValueError: ``obj`` holds NaN or infinity, which JSON cannot represent.
        TypeError: ``obj`` holds a value that JSON cannot represent.
    """
    write_text(path, json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, as a hex string."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
