"""Multi-process runs: how processes connect, agree on flags, and exit together."""

import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
import time
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_pipeline.runtime import exit_codes
from data_pipeline.runtime.endings import one_line
from data_pipeline.runtime.errors import NotReadyError
from gpst_jax.config import ConfigError

_POLL_SECONDS = 0.5


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
        ConfigError: the settings are inconsistent.
        NotReadyError: the port is taken, or process 0 does not answer. Where other processes do
            not connect in time, this one ends at once with NOT_READY.
    """
    if coordinator is not None:
        _check(coordinator, num_processes, process_id)
    print(
        f"joining the run at {coordinator or 'the address given by the cluster'} as process "
        f"{process_id} of {num_processes}: all must connect within {connect_seconds} s, with the "
        "same --coordinator and --num_processes, and its port must be open",
        flush=True,
    )
    deadline = time.monotonic() + connect_seconds
    if coordinator is not None:
        host, _, port = coordinator.rpartition(":")
        if process_id == 0:
            _check_free(int(port))
        else:
            _wait_for(host.strip("[]"), int(port), deadline, connect_seconds)
    arrived = threading.Event()

    def end_late() -> None:
        # The library below would abort instead, with its stacks, and code 134.
        if not arrived.wait(max(deadline - time.monotonic(), _POLL_SECONDS)):
            print(
                f"error: not all processes have joined the run within {connect_seconds} s: see the "
                "logs of the others, or raise --connect_seconds",
                file=sys.stderr,
            )
            leave_at_once(exit_codes.NOT_READY)

    threading.Thread(target=end_late, name="connect", daemon=True).start()
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=connect_seconds + 60,
            heartbeat_timeout_seconds=heartbeat_seconds,
        )
    except jax.errors.JaxRuntimeError as error:
        raise NotReadyError(f"this process cannot join the run: {one_line(error)}") from error
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"this process cannot join the run: {error}") from error
    finally:
        arrived.set()


def _check(coordinator: str, num_processes: int | None, process_id: int | None) -> None:
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise ConfigError(f"--coordinator={coordinator}: give HOST:PORT, such as 10.0.0.2:8476")
    if num_processes is None or process_id is None:
        raise ConfigError(
            f"--coordinator={coordinator}: give --num_processes and --process_id with it"
        )
    if not 0 <= process_id < num_processes:
        raise ConfigError(
            f"--process_id={process_id}: with --num_processes={num_processes} it is from 0 to "
            f"{num_processes - 1}"
        )


def _check_free(port: int) -> None:
    """Raises NotReadyError if another program listens: gRPC would share the port with it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
            probe.listen()
        except OSError as error:
            raise NotReadyError(
                f"--coordinator: port {port} of this host cannot be used ({error.strerror}): wait "
                "until the other program has ended, or choose another port"
            ) from error


def _wait_for(host: str, port: int, deadline: float, seconds: int) -> None:
    """Waits until process 0 listens; raises NotReadyError if it does not in time."""
    while True:
        try:
            with socket.create_connection((host, port), timeout=5):
                return
        except OSError as error:
            if time.monotonic() >= deadline:
                raise NotReadyError(
                    f"--coordinator={host}:{port}: process 0 does not answer within {seconds} s "
                    f"({error.strerror or error}): start it, open the port, or raise "
                    "--connect_seconds"
                ) from error
        time.sleep(_POLL_SECONDS)


def print_stacks_on_death() -> None:
    """Prints all threads' stack traces on a crash or abort, and on SIGUSR1 without exiting."""
    faulthandler.enable(all_threads=True)
    faulthandler.register(signal.SIGUSR1, all_threads=True)


def connected() -> bool:
    """Whether this is one of several processes; asks no device, which may be what has failed."""
    return jax.distributed.is_initialized()


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
