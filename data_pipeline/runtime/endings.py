"""Which failures are not defects of this project: their exit code, and one line about them.

They come from libraries and from the operating system, which know no `UserError`: a full disk, an
accelerator in use, a host that does not answer.
"""

import errno
import os
import re
import traceback

from data_pipeline.runtime import exit_codes
from data_pipeline.runtime.errors import NotReadyError, UserError

_STORAGE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV,
}  # fmt: skip
_NETWORK = {
    errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.ECONNREFUSED, errno.ECONNRESET, errno.ETIMEDOUT,
    errno.ECONNABORTED, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN,
}  # fmt: skip
_INPUT = {errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EILSEQ}
# What libraries in C++ say; only errors of these types are looked at.
_TYPES = {"JaxRuntimeError", "XlaRuntimeError", "RuntimeError", "ValueError", "OutOfMemoryError"}
_FULL = re.compile(r"No space left on device|Disk quota exceeded|File too large")
_LONG = re.compile(r"File name too long")
_MEMORY = re.compile(r"RESOURCE_EXHAUSTED|out of memory|Ran out of memory", re.IGNORECASE)
_ABSENT = re.compile(
    r"Unable to initialize backend|already in use|busy or unavailable|UNAVAILABLE"
    r"|DEADLINE_EXCEEDED|Connection (refused|reset|closed)|[Ff]ailed to connect"
    r"|coordination service|Gloo|NCCL|CUDA_ERROR_NO_DEVICE|no CUDA-capable device"
)
_LONGEST = 400

FULL = "make room or restore access, then run the same command again"


def ending(error: BaseException) -> tuple[int, str] | None:
    """The exit code and the message for a failure; None for a defect, which keeps its traceback."""
    if isinstance(error, UserError):
        return input_code(error), one_line(error)
    if isinstance(error, NotReadyError):
        return exit_codes.NOT_READY, one_line(error)
    if isinstance(error, MemoryError):
        return exit_codes.DOES_NOT_FIT, _message("the memory of this host is full", error)
    if isinstance(error, OSError) and error.errno is not None:
        return _of_system(error)
    if isinstance(error, AssertionError) and _raised_in(error, "jax/_src/xla_bridge.py"):
        # JAX asserts that a backend has started, with no message, where a plugin is missing.
        wanted = os.environ.get("JAX_PLATFORMS", "")
        return exit_codes.NOT_READY, f"no accelerator of JAX_PLATFORMS={wanted} has started"
    return _of_library(error) if _from_library(error) else None


def one_line(error: BaseException) -> str:
    """The message of an error on one line, never empty."""
    return " ".join(str(error).split()) or type(error).__name__


def input_code(error: BaseException) -> int:
    """BAD_INPUT for an error about an input or output; STORAGE if a full disk was its cause."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _STORAGE:
            return exit_codes.STORAGE
        if _from_library(cause) and _FULL.search(str(cause)):
            return exit_codes.STORAGE
        cause = cause.__cause__
    return exit_codes.BAD_INPUT


def _from_library(error: BaseException) -> bool:
    # An OSError without a number gathers several, such as that of copying a folder.
    return type(error).__name__ in _TYPES or isinstance(error, OSError)


def _raised_in(error: BaseException, file: str) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.replace(os.sep, "/").endswith(file)


def _of_system(error: OSError) -> tuple[int, str] | None:
    name = f"{error.filename}: " if error.filename else ""
    reason = f"{name if len(name) < _LONGEST else ''}{error.strerror}"
    if error.errno in _STORAGE:
        return exit_codes.STORAGE, f"the storage failed: {reason}; {FULL}"
    if error.errno in _NETWORK:
        return exit_codes.NOT_READY, f"the network is not ready: {reason}; try again"
    if error.errno == errno.ENAMETOOLONG:
        shown = f"{str(error.filename)[:80]}...: " if error.filename else ""
        return exit_codes.BAD_INPUT, f"{shown}the file name is too long: give a shorter one"
    if error.errno in _INPUT:
        return exit_codes.BAD_INPUT, f"{reason}: give another path, or the right to use it"
    return None


def _of_library(error: BaseException) -> tuple[int, str] | None:
    text = str(error)
    if _FULL.search(text):
        return exit_codes.STORAGE, _message("the storage failed", error) + f"; {FULL}"
    if _LONG.search(text):
        return exit_codes.BAD_INPUT, _message("give a shorter name", error)
    if isinstance(error, ValueError):
        return None
    if _ABSENT.search(text):
        return exit_codes.NOT_READY, _message("an accelerator or host is not ready", error)
    if _MEMORY.search(text):
        return exit_codes.DOES_NOT_FIT, _message("it does not fit into memory", error)
    return None


def _message(what: str, error: BaseException) -> str:
    return f"{what}: {one_line(error)[:_LONGEST]}"
