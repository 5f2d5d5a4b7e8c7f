"""Keeps libraries from printing what is no message to the user.

Their lines stand before the one that matters, in every program: libtpu, where it is installed,
looks for a TPU on any machine and reports at length that it found none; Orbax logs the stacks of
every thread in which a save fails, and then raises the failure, which the program reports.
"""

import glob
import logging
import os

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


def _is_message(record: logging.LogRecord) -> bool:
    """Whether a line of a log says what nothing else does."""
    return not (record.exc_info and f"{os.sep}orbax{os.sep}" in record.pathname)


def _has_tpu() -> bool:
    # /dev/accel* up to v5e, /dev/vfio/* of later generations; on any doubt nothing is set.
    return bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/*"))
