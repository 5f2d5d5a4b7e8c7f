"""One process per directory: a claim that names its holder, on one host and across hosts.

The claim is the file `.claim.json` in the directory. Its holder is

* on the same machine (same boot, same process namespace): alive while its process runs, told by the
  process id together with the time at which that process started;
* elsewhere: alive while it beats. It rewrites the claim every `BEAT_SECONDS`; after `DEAD_SECONDS`
  without a beat it counts as dead. A claim that is old by the clock of the file system is dead at
  once; for a younger one the claimant watches: the first beat tells that the holder lives.

A claim whose holder is dead is taken over. A holder that finds itself replaced, because it was
suspended or cut off for longer, ends its process at once with `exit_codes.STORAGE`: it must not
write beside the new one. The system's file lock is used as well, where the file system has one.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.runtime import exit_codes
from data_pipeline.runtime.errors import UserError

CLAIM_FILE = ".claim.json"
BEAT_SECONDS = 10.0
DEAD_SECONDS = 120.0  # above the time for which NFS clients may believe old attributes
_POLL_SECONDS = 1.0
_SETTLE_SECONDS = 1.0  # between taking a claim over and looking whether another did so too


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds a directory.

    Attributes:
        host: name of the machine.
        pid: process id on it.
        since: when it claimed the directory, UTC.
        machine: boot and process namespace, within which process ids mean something.
        started: when the process started, in clock ticks since the boot; 0: not known.
        id: of this claim.
        beat: counts up while the holder lives.
    """

    host: str
    pid: int
    since: str
    machine: str
    started: int
    id: str
    beat: int = 0

    def __str__(self) -> str:
        """Host, process id and time, for a message."""
        return f"process {self.pid} on {self.host}, since {self.since}"


@contextlib.contextmanager
def claimed(directory: str | os.PathLike[str]) -> Iterator[Holder]:
    """Holds a directory, made if missing, for as long as the context lasts.

    Raises:
        UserError: another live process holds it, or it cannot be written.
        OSError: the storage is full or fails.
    """
    path = Path(directory) / CLAIM_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file, locked = _open(path)
    except OSError as error:
        raise UserError(f"cannot write to {directory}: {error.strerror}") from error
    try:
        before = _read(path, seconds=2.0 if _used(file) else 0.0)
        if before is None and not locked:
            raise UserError(refusal(path.parent, "its claim is not readable yet"))
        if before is not None and _alive(path, before, locked):
            raise UserError(refusal(path.parent, str(before)))
        mine = _write(file, this_process())
        if before is not None and before.machine != mine.machine:
            time.sleep(_SETTLE_SECONDS)
            now = _read(path)
            if now is not None and now.id != mine.id:
                raise UserError(refusal(path.parent, str(now)))
        ended = threading.Event()
        thread = threading.Thread(
            target=_keep, args=(path, file, mine, ended), name="claim", daemon=True
        )
        thread.start()
        try:
            yield mine
        finally:
            ended.set()
            thread.join()
            now = _read(path)
            if now is not None and now.id == mine.id:
                path.unlink(missing_ok=True)  # while the lock is held
    finally:
        os.close(file)


def holder(directory: str | os.PathLike[str]) -> Holder | None:
    """Who has claimed a directory, dead or alive; None: nobody."""
    return _read(Path(directory) / CLAIM_FILE)


def refusal(directory: str | os.PathLike[str], who: str) -> str:
    """The message for a directory that is held by `who`."""
    return (
        f"another process is writing {os.fspath(directory)}: {who}; wait until it has finished, "
        "stop it, or choose another directory"
    )


def _open(path: Path) -> tuple[int, bool]:
    """The claim's file descriptor, and whether no other process has it locked."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return file, False
        except OSError:
            return file, True  # a file system without locks: the rules above decide
        # The holder may have removed it between these two calls: that lock would protect nothing.
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(file).st_ino:
                return file, True
        os.close(file)


def _used(file: int) -> bool:
    """Whether the claim was there before: made a moment ago, it is being written."""
    return os.fstat(file).st_size > 0 or time.time() - os.fstat(file).st_ctime > 1.0


def _read(path: Path, seconds: float = 0.5) -> Holder | None:
    """The holder; None where there is none, or it cannot be read within these seconds."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            text = path.read_text(encoding="utf-8")
            if text:
                names = {field.name for field in dataclasses.fields(Holder)}
                return Holder(**{k: v for k, v in json.loads(text).items() if k in names})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, AttributeError):
            pass  # being written just now
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.05)


def _write(file: int, mine: Holder) -> Holder:
    data = json.dumps(dataclasses.asdict(mine)).encode() + b"\n"
    os.pwrite(file, data, 0)
    os.ftruncate(file, len(data))
    os.fsync(file)
    return mine


def _keep(path: Path, file: int, mine: Holder, ended: threading.Event) -> None:
    """Beats until `ended`; ends the process if another has taken the claim."""
    while not ended.wait(BEAT_SECONDS):
        now = _read(path)
        if now is not None and now.id != mine.id:
            print(
                f"error: this process was silent for long and {now} has taken {path.parent}: "
                "ending, so that only one writes",
                file=sys.stderr,
                flush=True,
            )
            os._exit(exit_codes.STORAGE)
        mine = dataclasses.replace(mine, beat=mine.beat + 1)
        with contextlib.suppress(OSError):  # whoever writes the data reports the storage
            _write(file, mine)


def _alive(path: Path, other: Holder, locked: bool) -> bool:
    if on_this_machine(other):
        return not locked or runs(other)
    return _beats(path, other)


def on_this_machine(other: Holder) -> bool:
    """Whether the process ids of a holder mean something here."""
    return other.machine == _machine()


def runs(other: Holder) -> bool:
    """Whether the process of a holder on this machine runs."""
    return _started(other.pid) == other.started != 0


def _beats(path: Path, other: Holder) -> bool:
    """Whether a holder on another machine lives; takes up to `DEAD_SECONDS`."""
    with contextlib.suppress(OSError):
        # Two times of one clock, that of the file system.
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".claim-") as probe:
            age = os.stat(probe.name).st_mtime - path.stat().st_mtime
        if age > DEAD_SECONDS:
            return False
    print(
        f"{path.parent} is held by {other}: watching for up to {DEAD_SECONDS:.0f} s whether it "
        "lives",
        file=sys.stderr,
        flush=True,
    )
    deadline = time.monotonic() + DEAD_SECONDS
    while time.monotonic() < deadline:
        time.sleep(min(_POLL_SECONDS, DEAD_SECONDS / 4))
        now = _read(path)
        if now is None:
            return False  # it has finished
        if (now.id, now.beat) != (other.id, other.beat):
            return True
    return False


def this_process() -> Holder:
    """This process as a holder, with an id of its own at every call."""
    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        since=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        machine=_machine(),
        started=_started(os.getpid()),
        id=uuid.uuid4().hex,
    )


def _machine() -> str:
    """Two processes of equal value see each other's process ids; containers of a host do not."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> int:
    """When a running process started, in clock ticks since the boot; 0: it does not run."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    state, *fields = stat.rpartition(")")[2].split()  # the name in brackets may hold spaces
    return 0 if state in "ZX" else int(fields[18])
