"""Multi-process runs: how processes connect, agree on flags, and exit together."""

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
    """Connects this process with the others of its run; call before anything touches a device.

    The others detect a dead process within `heartbeat_seconds`; they then exit too, each with its
    stack traces on standard error.

    Args:
        coordinator: HOST:PORT of process 0; None where the cluster (TPU pod, SLURM) provides it.
        num_processes: with `coordinator`.
        process_id: with `coordinator`.
        connect_seconds: how long to wait for all processes.
        heartbeat_seconds: silence after which a process counts as dead.

    Raises:
        ConfigError: the settings are inconsistent. Where a process does not connect in time, JAX
            aborts this one with its stack traces; the line printed first says what it was
            waiting for.
    """
    print(
        f"joining the run at {coordinator or 'the address given by the cluster'} as process "
        f"{process_id} of {num_processes}: all must connect within {connect_seconds} s, with the "
        "same --coordinator and --num_processes, and its port must be open",
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
    """Prints all threads' stack traces on a crash or abort, and on SIGUSR1 without exiting."""
    faulthandler.enable(all_threads=True)
    faulthandler.register(signal.SIGUSR1, all_threads=True)


def any_process(*flags: bool) -> tuple[bool, ...]:
    """Which flags are set in at least one process; all processes must call it."""
    if jax.process_count() == 1:
        return flags
    return tuple(multihost_utils.process_allgather(np.array(flags)).any(axis=0).tolist())


def leave_at_once(code: int) -> NoReturn:
    """Exits without running exit handlers.

    For cases where those would wait for other processes, which may themselves be waiting in a
    collective for this one (they miss its heartbeats instead, see `connect`), or would write to a
    failed disk again.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
