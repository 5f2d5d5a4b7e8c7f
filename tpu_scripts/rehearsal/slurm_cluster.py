"""A private SLURM cluster on the loopback interface, of installed programs, for rehearsals.

    slurm_cluster.py missing                 prints the programs that are not installed
    slurm_cluster.py start DIR NODES         starts munged, slurmctld, and slurmd for each node
    slurm_cluster.py run DIR STAGE PYTHON COMMAND...
                                             runs a command that submits jobs, on a login node
    slurm_cluster.py faults DIR METRICS_FILE LOG STEPS SEED FAULT...
                                             injects faults into the running job, at random steps
    slurm_cluster.py stop DIR                ends every process of the cluster and its jobs

DIR holds the configuration, key, socket and logs, STAGE the caches of jobs. No file outside them is
used or changed: a cluster that this machine belongs to stays as it is. All runs as the calling
user, root or not, who alone can submit jobs. Nodes are addresses of the loopback interface, so that
processes find each other by the names of their nodes. Standard library only.

Faults: `process` (the training process of one node is killed), `batch_node` (slurmd and all
processes of the node with the batch script are killed; the node returns once the job runs on
others), `node` (the same on another node of the job).
"""

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from chaos import reached
from world import HERE, MARK, training_environment

PROGRAMS = (
    *("munged", "slurmctld", "slurmd"),
    *("sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun"),
)
# Programs of the system are not on the PATH of every user.
SYSTEM_PATH = os.pathsep.join([os.environ["PATH"], "/usr/local/sbin", "/usr/sbin", "/sbin"])
JAX_FIRST_PORT = 61440  # JAX adds the job's number, modulo 4096
START_SECONDS = 60
FAULT_SECONDS = 240
RUN_SECONDS = 900

CONFIGURATION = """
ClusterName=rehearsal
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits for as long as credentials are valid.
AuthInfo=socket={directory}/munge/socket,cred_expire=5
StateSaveLocation={directory}/state
SlurmctldPidFile={directory}/slurmctld.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdSpoolDir={directory}/nodes/%n
SlurmdPidFile={directory}/nodes/%n/slurmd.pid
SlurmdLogFile={directory}/nodes/%n/slurmd.log
PlugStackConfig={directory}/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1
FirstJobId={first_job}
# A node that has been silent for so long is down, and its jobs are requeued.
SlurmdTimeout=10
KillWait=5
# Nodes return by themselves, and may claim more than this machine has.
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
{nodes}
PartitionName=rehearsal Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def _free_port(first: int = 0) -> int:
    """A free TCP port: any, or the first one from `first` on."""
    for port in range(first, first + 4000 if first else 1):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return int(probe.getsockname()[1])
    raise SystemExit("error: no free port")


def _wait(what: str, done: Callable[[], object], seconds: float = START_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise SystemExit(f"error: {what}: not within {seconds} s")
        time.sleep(0.02)


class Cluster:
    """The cluster in `directory`, whose path has to be short: it holds sockets."""

    def __init__(self, directory: str):
        self.directory = Path(directory).resolve()
        self.configuration = self.directory / "slurm.conf"
        self.environment = os.environ | {"SLURM_CONF": str(self.configuration), "PATH": SYSTEM_PATH}

    def start(self, count: int) -> None:
        """Starts it with `count` nodes; returns when all of them are idle."""
        names = [f"127.0.0.{number}" for number in range(1, count + 1)]
        for part in ("munge", "state", *(f"nodes/{node}" for node in names)):
            (self.directory / part).mkdir(parents=True, mode=0o755)
        host = socket.gethostname().split(".")[0]
        lines = [
            f"NodeName={node} NodeAddr={node} NodeHostname={host} Port={_free_port()} CPUs=2 "
            "Gres=gpu:1"
            for node in names
        ]
        values = {
            "host": host,
            "control_port": _free_port(),
            "user": pwd.getpwuid(os.getuid()).pw_name,
            "directory": self.directory,
            "first_job": _free_port(JAX_FIRST_PORT + os.getpid() % 2000) - JAX_FIRST_PORT,
            "nodes": "\n".join(lines),
        }
        self.configuration.write_text(CONFIGURATION.format(**values))
        (self.directory / "gres.conf").write_text("Name=gpu File=/dev/null\n")  # one per node
        key = self.directory / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        munge = self.directory / "munge"
        files = [f"--{name}-file={munge / name}" for name in ("key", "log", "pid", "seed")]
        self._daemon("munged", "--foreground", "--force", f"--socket={munge / 'socket'}", *files)
        _wait("munged starts", (munge / "socket").exists)
        self._daemon("slurmctld", "-D", "-f", str(self.configuration))
        for node in names:
            self.start_node(node)
        _wait("all nodes are idle", lambda: self._idle() == set(names))

    def start_node(self, node: str) -> None:
        """Starts slurmd."""
        self._daemon("slurmd", "-D", "-N", node, "-f", str(self.configuration), log=node)

    def _daemon(self, *words: str, log: str = "") -> None:
        """In a session of its own: it outlives this program."""
        with (self.directory / f"{log or words[0]}.out").open("a") as output:
            subprocess.Popen(
                words,
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def run(self, stage: str, python: str, *words: str) -> NoReturn:
        """Becomes a command whose jobs train with the interpreter `python`, installing nothing."""
        home = Path(stage) / "home"
        home.mkdir(exist_ok=True)
        environment = self.environment | {
            "PATH": os.pathsep.join([str(HERE / "host_bin"), SYSTEM_PATH]),
            "HOME": str(home),
            "GPST_REAL_PYTHON": python,
            "GPST_EXECUTE": "True",
            **training_environment(Path(stage) / "compiled", devices=1),
            MARK: str(home),
        }
        os.execvpe(words[0], words, environment)

    def _ask(self, *words: str) -> str:
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, check=False
        )
        return done.stdout

    def _idle(self) -> set[str]:
        return set(
            self._ask("sinfo", "--noheader", "--states=idle", "--Node", "--format=%N").split()
        )

    def job(self) -> dict[str, str]:
        """What `scontrol show job` says of the newest job: JobState, Restarts, BatchHost, ..."""
        newest = self._ask("scontrol", "--oneliner", "show", "job").splitlines()[-1:]
        return dict(word.partition("=")[::2] for word in " ".join(newest).split())

    def job_nodes(self) -> list[str]:
        """The nodes of the newest job, if it is running."""
        job = self.job()
        if job.get("JobState") != "RUNNING":
            return []
        return self._ask("scontrol", "show", "hostnames", job["NodeList"]).split()

    def _listed(self, node: str) -> Iterator[tuple[int, str]]:
        """(id, command line) of `processes`."""
        place = str(self.directory / "nodes" / node) if node else str(self.directory)
        own = set(_ancestors())
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) in own:
                continue
            with contextlib.suppress(OSError):
                words = (
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
                given = (entry / "environ").read_bytes().split(b"\0")
                # Daemons and the supervisors of steps keep the log of their node open.
                if self._is_of(node, given) or any(
                    os.readlink(file).startswith(place + os.sep)
                    for file in (entry / "fd").iterdir()
                ):
                    yield int(entry.name), words

    def _is_of(self, node: str, environment: list[bytes]) -> bool:
        wanted = [f"SLURM_CONF={self.configuration}"]
        if node:
            wanted.append(f"SLURMD_NODENAME={node}")
        return all(text.encode() in environment for text in wanted)

    def _training(self, node: str) -> list[int]:
        return [
            number
            for number, words in self._listed(node)
            if "experiments.pretrain" in words and Path(words.split()[0]).name != "srun"
        ]

    def processes(self, node: str = "") -> list[int]:
        """Processes of the cluster or a node, but this and its parents."""
        return [number for number, _ in self._listed(node)]

    def kill(self, victims: list[int]) -> int:
        """Kills processes; returns their number."""
        for number in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        return len(victims)

    def stop(self) -> None:
        """Ends every process; those that are being started as well."""
        _wait("all processes have ended", lambda: self.kill(self.processes()) == 0)

    def inject(self, fault: str, rng: random.Random) -> str:
        """Injects one fault, and waits until SLURM has requeued and started the job.

        Returns:
            What was hit, or "" where training was not going on.
        """
        job, nodes = self.job(), self.job_nodes()
        if job.get("JobState") == "COMPLETED":
            raise SystemExit(
                f"error: the run has ended before the fault {fault}: give more --steps"
            )
        if not nodes or not all(self._training(node) for node in nodes):
            return ""
        node = job["BatchHost"]
        others = [other for other in nodes if other != node] or nodes
        if fault != "batch_node":
            node = rng.choice(nodes if fault == "process" else others)
        if fault == "process":
            self.kill(self._training(node))
        else:
            _wait(f"node {node} is lost", lambda: self.kill(self.processes(node)) == 0)
        _wait(
            f"the job is requeued after {fault} of {node}",
            lambda: self.job()["Restarts"] != job["Restarts"] and self.job_nodes(),
            FAULT_SECONDS,
        )
        if fault != "process":
            self.start_node(node)
        return f"{node}: requeued, and went on on {', '.join(self.job_nodes())}"


def _ancestors() -> Iterator[int]:
    number = os.getpid()
    while number > 0:
        yield number
        try:
            stat = Path(f"/proc/{number}/stat").read_text()
        except OSError:
            return
        number = int(stat.rpartition(")")[2].split()[1])


def _faults(directory: str, metrics: str, log: str, steps: str, seed: str, *faults: str) -> None:
    cluster, rng = Cluster(directory), random.Random(int(seed))
    share = int(steps) / (len(faults) + 1)
    written = 0
    for number, fault in enumerate(faults, 1):
        wanted = max(round(share * number + rng.uniform(-0.3, 0.3) * share), 1)
        # It trains again after the fault before.
        _wait(
            f"step {wanted} is reached",
            lambda wanted=wanted, written=written: (
                reached(Path(metrics)) >= wanted and Path(metrics).stat().st_mtime_ns != written
            ),
            RUN_SECONDS,
        )
        while not (hit := cluster.inject(fault, rng)):
            time.sleep(0.02)
        written = Path(metrics).stat().st_mtime_ns
        with Path(log).open("a") as file:
            file.write(f"{fault}: after step {wanted}, {hit}\n")


def main() -> None:
    """Runs the program; see the module docstring."""
    verb, *words = sys.argv[1:]
    if verb == "missing":
        print(*(name for name in PROGRAMS if shutil.which(name, path=SYSTEM_PATH) is None))
    elif verb == "start":
        Cluster(words[0]).start(int(words[1]))
    elif verb == "run":
        Cluster(words[0]).run(*words[1:])
    elif verb == "faults":
        _faults(*words)
    elif verb == "stop":
        Cluster(*words).stop()
    else:
        raise SystemExit(f"error: unknown verb '{verb}'")


if __name__ == "__main__":
    main()
