"""Several processes as one run: how they connect, agree, and end together."""

import faulthandler
import logging
import os
import signal
import sys
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from gpst_jax.config import ConfigError


def connect(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    *,
    connect_seconds: int,
    heartbeat_seconds: int,
) -> None:
    """Connects this process with the others of its run; before anything else touches a device.

    A process that dies is noticed by the others within `heartbeat_seconds`; they then end too, each
    with its stacks on standard error.

    Args:
        coordinator: HOST:PORT of process 0; None where the cluster (TPU pod, SLURM) tells it.
        num_processes: with `coordinator`.
        process_id: with `coordinator`.
        connect_seconds: how long to wait for all processes.
        heartbeat_seconds: silence after which a process counts as dead.

    Raises:
        ConfigError: the settings do not fit together. Where not all processes come in time, the
            library below ends this one with its stacks; the line printed first says what it
            was waiting for.
    """
    print(
        f"joining the run at {coordinator or 'the address that the cluster gives'} as process "
        f"{process_id} of {num_processes}: all must come within {connect_seconds} s, with the same "
        "--coordinator and --num_processes, and its port must be open",
        flush=True,
    )
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=connect_seconds,
            heartbeat_timeout_seconds=heartbeat_seconds,
        )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"this process cannot join the run: {error}") from error


def print_stacks_on_death() -> None:
    """A crash or abort prints the stacks of all threads; SIGUSR1 prints them and goes on."""
    faulthandler.enable(all_threads=True)
    faulthandler.register(signal.SIGUSR1, all_threads=True)


def any_process(*flags: bool) -> tuple[bool, ...]:
    """Which flags are set in at least one process; all processes must call it."""
    if jax.process_count() == 1:
        return flags
    return tuple(multihost_utils.process_allgather(np.array(flags)).any(axis=0).tolist())


def leave_at_once(code: int) -> NoReturn:
    """Ends this process without what usually runs at its end.

    For where that would wait for other processes, which may themselves be waiting in a collective
    for this one (they notice its silence instead, see `connect`), or write to a failed disk again.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
