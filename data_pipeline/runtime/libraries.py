"""Keeps libraries from printing what is no message to the user.

Their lines stand before the one that matters, in every program: libtpu, where it is installed,
looks for a TPU on any machine and reports at length that it found none; Orbax logs the stacks of
every thread in which a save fails, and then raises the failure, which the program reports; once it
has raised it, TensorStore reports every other write that ends to the closed event loop of Orbax.
"""

import functools
import glob
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

# libtpu then neither asks a virtual machine's metadata what it is, nor says that nobody answered.
WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "GRPC_VERBOSITY": "ERROR"}  # errors alone


def quieten() -> None:
    """Sets what is not set in the environment; to be called before a backend of JAX is started."""
    quiet = _QUIET if _has_tpu() else _QUIET | WITHOUT_TPU
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    logging.getLogger("absl").addFilter(_is_message)
    logging.getLogger("asyncio").addFilter(_is_no_leftover)
    hook = sys.unraisablehook
    if getattr(hook, "func", None) is not _report_unraisable:
        sys.unraisablehook = functools.partial(_report_unraisable, hook)


def _is_message(record: logging.LogRecord) -> bool:
    """Whether a line of a log says what nothing else does."""
    return not (record.exc_info and f"{os.sep}orbax{os.sep}" in record.pathname)


def _is_no_leftover(record: logging.LogRecord) -> bool:
    """False for a task left behind by an event loop that has ended with another's failure."""
    return not str(record.msg).startswith("Task was destroyed but it is pending")


def _report_unraisable(report: Callable[[Any], Any], unraisable: Any) -> None:
    """Reports an error that nobody can catch, unless it is of a write whose event loop is closed.

    Args:
        report: what reports it otherwise.
        unraisable: what `sys.unraisablehook` is given.
    """
    if isinstance(unraisable.exc_value, RuntimeError):
        frames = traceback.extract_tb(unraisable.exc_traceback)
        if frames and frames[-1].name == "_check_closed" and "asyncio" in frames[-1].filename:
            return
    report(unraisable)


def _has_tpu() -> bool:
    # /dev/accel* up to v5e, /dev/vfio/* of later generations; on any doubt nothing is set.
    return bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/*"))
