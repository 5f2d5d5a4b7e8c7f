"""Messages that decoders print by themselves: mpg123, inside libsndfile, writes to stderr."""

import contextlib
import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import BinaryIO

_log = logging.getLogger(__name__)

_DECODER = re.compile(rb"(Warning|Note): |\[\S*mpg123\S*\]|\s*$")
_STDERR = 2
_lock = threading.Lock()


class _Diverted:
    """File descriptor 2 while at least one thread decodes."""

    threads = 0
    stderr = -1
    file: BinaryIO | None = None


@contextlib.contextmanager
def decoder_messages_hidden() -> Iterator[None]:
    """Keeps what decoders print off stderr; it is logged at level debug.

    The messages name no file and say nothing that the result does not: a damaged file raises. Lines
    that others print meanwhile appear when the last thread has left.
    """
    with _lock:
        if not _Diverted.threads:
            _divert()
        _Diverted.threads += 1
    try:
        yield
    finally:
        with _lock:
            _Diverted.threads -= 1
            printed = b"" if _Diverted.threads else _restore()
        for line in printed.splitlines(keepends=True):
            if _DECODER.match(line):
                _log.debug("decoder: %s", line.decode(errors="replace").strip())
            else:
                os.write(_STDERR, line)


def _divert() -> None:
    with contextlib.suppress(OSError):  # no stderr, no space: messages stay where they are
        file = tempfile.TemporaryFile()  # noqa: SIM115 (closed when diverted no more)
        _flush()
        _Diverted.stderr = os.dup(_STDERR)
        os.dup2(file.fileno(), _STDERR)
        _Diverted.file = file


def _restore() -> bytes:
    """Undoes `_divert`; returns what was printed."""
    if _Diverted.file is None:
        return b""
    _flush()
    os.dup2(_Diverted.stderr, _STDERR)
    os.close(_Diverted.stderr)
    with _Diverted.file as file:
        _Diverted.file = None
        file.seek(0)
        return file.read()


def _flush() -> None:
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
