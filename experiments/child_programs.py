"""Programs that a sweep or a study starts: each in a process of its own, with a log."""

import contextlib
import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Log:
    """The log of one program, which this process and the program hold.

    Attributes:
        output: for appending.
        lock: a file of its own, so that the program holds the lock and what it starts does not:
            processes that outlive it would hold it for ever.
    """

    output: IO[bytes]
    lock: IO[bytes]

    def write(self, text: bytes) -> None:
        """Appends to the log."""
        self.output.write(text)
        self.output.flush()


@contextlib.contextmanager
def held(path: Path) -> Iterator[Log]:
    """The log of a program, while no program of another caller writes it.

    A killed caller leaves the program in progress behind. It goes on, and holds the lock of
    its log.
    """
    with path.open("ab") as output, path.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{path.stem} still runs: waiting for its end", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks: the program's own claim decides
        yield Log(output, lock)


def run(
    command: list[str], log: Log, defaults: Mapping[str, str] = KEEP_MEMORY
) -> tuple[int, bool]:
    """Runs a command to its end, with all that it prints in its log.

    A signal to stop is handed on, so that the state is saved. Processes that the command leaves
    behind are ended.

    Args:
        command: with its arguments.
        log: where it prints.
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
        log.write(f"$ {shlex.join(command)}\n".encode())
        # A session of its own: the terminal's Ctrl-C reaches it once, through `hand_on`.
        started.append(
            subprocess.Popen(
                command,
                stdout=log.output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                pass_fds=(log.lock.fileno(),),
            )
        )
        if signals:  # before there was a process
            started[0].terminate()
        code = started[0].wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started[0].pid, signal.SIGKILL)
        return code, bool(signals)


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
