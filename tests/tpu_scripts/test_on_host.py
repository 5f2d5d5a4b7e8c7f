"""What runs on a host, and the batch script of SLURM: starts, ends, secrets."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launch_settings import write_settings

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tpu_scripts" / "on_host.sh"
# Notes the secret that it was given, then waits; SIGTERM ends it with the code of a saved run.
TRAIN = """
import os, signal, sys, time
open(sys.argv[1], "w").write(os.environ.get("WANDB_API_KEY", "none"))
def leave(*_):
    sys.exit(75)
signal.signal(signal.SIGTERM, leave)
time.sleep(float(sys.argv[2]))
"""


class Host:
    """A home and a directory with an environment, as setup leaves them."""

    def __init__(self, path):
        self.path, self.code = path, path / "the code"
        (self.code / ".venv" / "bin").mkdir(parents=True)
        (self.code / ".venv" / "bin" / "python").symlink_to(sys.executable)

    def call(self, *words, stdin=""):
        return subprocess.run(
            [SCRIPT, *words],
            cwd=self.code,
            env=os.environ | {"HOME": str(self.path)},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def start(self, *arguments, stdin=""):
        command = [".venv/bin/python", "-c", TRAIN, self.path / "told", *arguments]
        return self.call("start", "run", "2", "0", *map(str, command), stdin=stdin)

    def state(self):
        return self.call("state", "run").stdout.strip()

    def pid(self):
        return int((self.path / "gpst_runs" / "run" / "pid").read_text())

    def wait(self, wanted):
        deadline = time.monotonic() + 60
        while self.state() != wanted:
            assert time.monotonic() < deadline, self.state()
            time.sleep(0.05)


@pytest.fixture
def host(tmp_path):
    host = Host(tmp_path)
    yield host
    if (host.path / "gpst_runs").exists():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(host.pid(), signal.SIGKILL)


def wait_for(path):
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_life(host):
    assert host.state() == "none"
    assert host.start("0").returncode == 0
    host.wait("exited 0")
    assert host.start("60").returncode == 0
    assert host.state() == "running"
    again = host.start("60")
    assert again.returncode == 2
    assert "stop it first" in again.stderr
    wait_for(host.path / "told")
    time.sleep(0.3)  # until it listens to signals
    assert host.call("stop", "run").returncode == 0
    assert host.state() == "stopped"


def test_a_host_that_was_killed_is_lost_and_can_start_again(host):
    host.start("60")
    wait_for(host.path / "told")  # before that there may be no group of processes to kill
    os.killpg(host.pid(), signal.SIGKILL)
    host.wait("lost")
    assert host.start("60").returncode == 0
    assert host.state() == "running"


def test_what_a_dead_supervisor_has_left_is_ended_first(host):
    host.start("60")
    wait_for(host.path / "told")
    old = host.pid()
    os.kill(old, signal.SIGKILL)  # the supervisor alone
    host.wait("lost")
    assert host.start("60").returncode == 0
    with pytest.raises(ProcessLookupError):
        os.killpg(old, 0)


def test_secrets_arrive_and_are_written_nowhere(host):
    host.start("60", stdin="WANDB_API_KEY=hush now&'1\n")
    wait_for(host.path / "told")
    assert (host.path / "told").read_text() == "hush now&'1"
    directory = host.path / "gpst_runs" / "run"
    assert all("hush" not in file.read_text() for file in directory.iterdir())
    shown = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert "hush now" not in shown.stdout


def test_without_an_environment_it_does_not_start(host):
    (host.code / ".venv" / "bin" / "python").unlink()
    done = host.start("0")
    assert done.returncode == 2
    assert "setup.sh makes it" in done.stderr


@pytest.fixture
def slurm(tmp_path):
    """Function (exit code of srun, environment) -> (code, calls of scontrol, exit_code file)."""
    tools = tmp_path / "tools"
    tools.mkdir()
    texts = {
        "sbatch": f"#!/bin/sh\ncat >'{tmp_path}/batch.sh'\n",
        "srun": f"#!/bin/sh\nprintf '%s\\n' \"$@\" >'{tmp_path}/srun'\nexit $CODE\n",
        "scontrol": f"#!/bin/sh\necho $* >>'{tmp_path}/scontrol'\n",
    }
    for name, text in texts.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    code = tmp_path / "shared code"
    environment = os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    settings = write_settings(tmp_path / "run.env", "slurm")
    launch = [ROOT / "tpu_scripts" / "launch.sh", f"--env={settings}", f"--code={code}"]
    subprocess.run([*launch, "--max_tries=3"], env=environment, check=True, capture_output=True)

    def run(code_of_srun, **extra):
        (tmp_path / "scontrol").unlink(missing_ok=True)
        given = environment | {"CODE": str(code_of_srun), "SLURM_JOB_ID": "7"} | extra
        done = subprocess.run(
            ["bash", tmp_path / "batch.sh"], cwd=code, env=given, check=False, capture_output=True
        )
        calls, log = tmp_path / "scontrol", code / "runs" / "slurm" / "tiny"
        written = (log / "exit_code").read_text().strip() if (log / "exit_code").exists() else ""
        return done.returncode, calls.read_text().strip() if calls.exists() else "", written

    run.log = code / "runs" / "slurm" / "tiny"
    run.words = tmp_path / "srun"
    return run


def test_the_batch_script_starts_again_and_ends(slurm):
    assert slurm(0) == (0, "", "0")
    assert "--workdir=/mnt/gpst/my runs" in slurm.words.read_text().splitlines()
    assert slurm(2) == (2, "", "2")
    assert slurm(4) == (4, "", "4")
    assert slurm(75) == (0, "requeue 7", "")
    assert slurm(69) == (0, "requeue 7", "")
    assert slurm(137, SLURM_RESTART_COUNT="2") == (0, "requeue 7", "")
    assert slurm(0, SLURM_RESTART_COUNT="3") == (69, "", "69")  # three starts are enough
    (slurm.log / "stop").touch()
    assert slurm(75) == (75, "", "75")
