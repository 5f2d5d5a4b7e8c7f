"""Programs that a sweep or a study starts: each in a process of its own, with a log."""

import contextlib
import fcntl
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from data_pipeline.runtime.process_pool import KEEP_MEMORY

_ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def held(log: Path) -> Iterator[IO[bytes]]:
    """The log of a program, for appending, while no process of another caller writes it.

    A killed caller leaves the program in progress behind. It goes on, and holds the lock of
    its log.
    """
    with log.open("ab") as output:
        try:
            fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{log.stem} still runs: waiting for its end", flush=True)
            fcntl.flock(output, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks: the program's own claim decides
        yield output


def run(
    command: list[str], output: IO[bytes], defaults: Mapping[str, str] = KEEP_MEMORY
) -> tuple[int, bool]:
    """Runs a command to its end, with all that it prints in a file.

    A signal to stop is handed on, so that the state is saved.

    Args:
        command: with its arguments.
        output: where it prints.
        defaults: of environment variables that are not set.

    Returns:
        Its exit code, and whether there was such a signal.
    """
    started: list[subprocess.Popen[bytes]] = []
    signals: list[int] = []

    def hand_on(number: int, frame: Any) -> None:
        signals.append(number)
        for process in started:
            process.terminate()

    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]  # from any directory
    environment = {**defaults, **os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with _handling(hand_on):
        output.write(f"$ {shlex.join(command)}\n".encode())
        output.flush()
        # A session of its own: the terminal's Ctrl-C reaches it once, through `hand_on`.
        started.append(
            subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        )
        if signals:  # before there was a process
            started[0].terminate()
        return started[0].wait(), bool(signals)


@contextlib.contextmanager
def _handling(handler: Callable[[int, Any], None]) -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT)
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def last_words(log: Path) -> str:
    """The line in which a program says why it ended: its error, else the last one."""
    text = log.read_text(encoding="utf-8", errors="replace").rpartition("\n$ ")[2]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines)[-1].removeprefix("error: ")
