"""A simulated cloud in a directory: resources, hosts, and injected faults.

The fakes in this directory act on it in place of gcloud, kubectl and docker. A host is a directory,
its home; its processes are local processes with the host's name in their environment, by which they
are found and killed. Standard library only.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MARK = "GPST_REHEARSED_HOST"
# Hosts look like a SLURM job to JAX, which derives the coordinator's port from the job id.
FIRST_PORT, NUM_PORTS = 61440, 4096


class World:
    """The simulated cloud in the directory `path`, by default $GPST_WORLD."""

    def __init__(self, path: str | os.PathLike[str] | None = None):
        self.path = Path(path or os.environ["GPST_WORLD"]).resolve()
        self._file = self.path / "world.json"

    def create(self, settings: dict[str, Any]) -> None:
        """Creates it.

        Args:
            settings: `python` (the interpreter of the hosts), `devices` per host, `execute` (False:
                training commands are only recorded), `faults` of calls.
        """
        (self.path / "hosts").mkdir(parents=True)
        self._file.write_text(json.dumps({"settings": settings, "resources": {}}))

    @contextlib.contextmanager
    def change(self) -> Iterator[dict[str, Any]]:
        """The state, to be read or changed under a lock."""
        with open(self.path / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = json.loads(self._file.read_text())
            yield state
            temporary = self._file.with_suffix(".tmp")
            temporary.write_text(json.dumps(state, indent=1))
            temporary.replace(self._file)

    def state(self) -> dict[str, Any]:
        """The current state."""
        with self.change() as state:
            return state

    def played(self, what: str) -> None:
        """Records an injected fault."""
        with (self.path / "faults.log").open("a") as file:
            file.write(what + "\n")

    def call(self, tool: str, words: list[str]) -> None:
        """Records a call of a fake; fails if a fault is due for it."""
        text = " ".join([tool, *words])
        with (self.path / "calls.log").open("a") as file:
            file.write(json.dumps([tool, *words]) + "\n")
        with self.change() as state:
            for fault in state["settings"]["faults"]:
                if fault["times"] > 0 and re.search(fault["call"], text):
                    fault["times"] -= 1
                    break
            else:
                return
        self.played(f"{fault['name']}: {text[:100]}")
        fail(fault["message"], fault["code"])

    def add_hosts(self, resource: str, names: list[str]) -> None:
        """Adds hosts with empty homes; their processes will form one SLURM job."""
        port = _free_port()
        for number, name in enumerate(names):
            home = self.home(name)
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            cluster = {
                "SLURM_JOB_ID": str(port - FIRST_PORT),
                "SLURM_STEP_NODELIST": "localhost",
                "SLURM_NTASKS": str(len(names)),
                "SLURM_PROCID": str(number),
                "SLURM_LOCALID": "0",
            }
            (home / ".cluster.json").write_text(json.dumps(cluster))
        with self.change() as state:
            state["resources"][resource] |= {"hosts": names}

    def home(self, host: str) -> Path:
        """The directory of a host."""
        return self.path / "hosts" / host.replace("/", "-")

    def environment(self, host: str) -> dict[str, str]:
        """The environment of processes on a host."""
        settings = self.state()["settings"]
        devices = settings["devices"]
        outside = os.environ["PATH"].split(os.pathsep)
        inside = [str(HERE / "host_bin"), *(p for p in outside if Path(p) != HERE / "bin")]
        return {
            "PATH": os.pathsep.join(inside),
            "HOME": str(self.home(host)),
            "GPST_WORLD": str(self.path),
            "GPST_REAL_PYTHON": settings["python"],
            "GPST_EXECUTE": str(settings["execute"]),
            **training_environment(self.path.parent / "compiled", devices),
            MARK: str(self.home(host)),
            **json.loads((self.home(host) / ".cluster.json").read_text()),
        }

    def shell(self, host: str, text: str) -> int:
        """Runs shell text on a host, as ssh does; returns its exit code."""
        return subprocess.run(
            ["bash", "-c", text], cwd=self.home(host), env=self.environment(host), check=False
        ).returncode

    def processes(self, host: str, command: str = "") -> list[int]:
        """Processes on a host whose command line contains `command`, without the supervisor.

        With an empty `command`, all processes, supervisor included.
        """
        found = []
        mark = f"{MARK}={self.home(host)}".encode()
        for directory in Path("/proc").iterdir():
            if not directory.name.isdigit() or int(directory.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                if mark in (directory / "environ").read_bytes().split(b"\0"):
                    words = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if command in words and not (command and "supervise.sh" in words):
                        found.append(int(directory.name))
        return found

    def kill(self, host: str, command: str = "", number: int = signal.SIGKILL) -> int:
        """Sends a signal to processes of a host; returns their number."""
        victims = self.processes(host, command)
        for process in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
        return len(victims)


def training_environment(compiled: Path, devices: int) -> dict[str, str]:
    """Of training with `devices` on each host, with the directory of a compilation cache."""
    return {
        "JAX_PLATFORMS": "cpu",
        # Compile fast: there is little to compute.
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} "
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
        "NPROC": "16",  # threads for collectives: as many as cores can deadlock
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def fail(message: str, code: int = 1) -> None:
    """Exits as the real program would."""
    print(message, file=sys.stderr)
    raise SystemExit(code)


def flag(words: list[str], name: str, default: str = "") -> str:
    """The value of --name=value."""
    values = [word.split("=", 1)[1] for word in words if word.startswith(f"--{name}=")]
    return values[-1] if values else default


def _free_port() -> int:
    for port in range(FIRST_PORT + time.monotonic_ns() % 2000, FIRST_PORT + NUM_PORTS):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("localhost", port))
            return port
    raise RuntimeError("no free port")


def main() -> None:
    """Creates a world: world.py DIR PYTHON BACKEND all|none."""
    path, python, backend, played = sys.argv[1:]
    faults = json.loads((HERE / "faults.json").read_text())[backend] if played == "all" else []
    World(path).create({"python": python, "devices": 1, "execute": True, "faults": faults})


if __name__ == "__main__":
    main()
