"""The dress rehearsal, and the hosts' script that it goes through.

A small form runs with the other tests. The full one, by one command:

    GPST_FULL_REHEARSAL=1 pytest -s tests/tpu_scripts/test_rehearse.py
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tpu_scripts" / "rehearse.sh"
FULL = bool(os.environ.get("GPST_FULL_REHEARSAL"))
TIMEOUT = 3600 if FULL else 900


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT)
def test_faults_change_nothing(tmp_path):
    """At least five faults of calls, and those of the hosts in mid-run."""
    stage = tmp_path / "stage"
    flags = ["--full"] if FULL else []
    environment = os.environ | {"PYTHON": sys.executable, "XLA_FLAGS": ""}
    done = subprocess.run(
        [SCRIPT, f"--keep={stage}", *flags],
        capture_output=True,
        text=True,
        env=environment,
        timeout=TIMEOUT,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    skipped = done.stdout.count("skipped: slurm")
    assert done.stdout.count("the same, bit for bit") == (4 - skipped if FULL else 1)
    played = (stage / "queued-disturbed" / "faults.log").read_text().splitlines()
    names = {line.split(":")[0] for line in played}
    assert {"create fails", "quota", "no answer", "copy fails", "ssh fails"} < names
    assert {"process", "preempt"} < names
    assert re.search(r"undisturbed  [0-9a-f]{64}\n", done.stdout)
    restarts = int(re.search(r"restarts +(\d+)", done.stdout)[1])
    assert restarts >= 2
    created = (
        (stage / "queued-disturbed" / "calls.log").read_text().count('"queued-resources", "create"')
    )
    assert created == 4  # two that failed, the first slices, and those after the preemption


@pytest.mark.parametrize("word", ["--what", "--backend=cloud", "x"])
def test_bad_flags_are_one_line(word):
    command = [SCRIPT, word]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def _missing_of_slurm():
    command = [sys.executable, ROOT / "tpu_scripts" / "rehearsal" / "slurm_cluster.py", "missing"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _processes(*words):
    """Command lines of processes that name one of the words, in them or in their environments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                if any(word.encode() in text for word in words):
                    found.append((entry / "cmdline").read_bytes())
    return found


needs_slurm = pytest.mark.skipif(
    bool(_missing_of_slurm()), reason="needs SLURM and munge (Debian: slurm-wlm, munge)"
)


@needs_slurm
@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT)
def test_a_slurm_job_outlives_a_node(tmp_path):
    """Through the real sbatch; SLURM requeues the job once by the script and once by itself."""
    stage = tmp_path / "stage"
    done = subprocess.run(
        [SCRIPT, "--backend=slurm", f"--keep={stage}"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHON": sys.executable, "XLA_FLAGS": ""},
        timeout=TIMEOUT,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the same, bit for bit") == 1
    played = (stage / "slurm-disturbed" / "faults.log").read_text().splitlines()
    assert [line.split(":")[0] for line in played] == ["process", "batch_node"]
    assert all("requeued, and went on on 127.0.0." in line for line in played)
    restarts = int(re.search(r"restarts +(\d+)", done.stdout)[1])
    assert restarts >= 2
    launched = (stage / "slurm-disturbed" / "up.log").read_text()
    assert launched.count("+ sbatch") == 1
    _nothing_is_left(stage)


@needs_slurm
@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT)
def test_ended_by_a_signal_it_leaves_nothing(tmp_path):
    stage = tmp_path / "stage"
    process = subprocess.Popen(
        [SCRIPT, "--backend=slurm", f"--keep={stage}"],
        env=os.environ | {"PYTHON": sys.executable, "XLA_FLAGS": ""},
    )
    log = stage / "slurm-whole" / "up.log"
    deadline = time.monotonic() + TIMEOUT - 60
    while not (log.exists() and "run running" in log.read_text()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.terminate()
    assert process.wait(60) == 130
    _nothing_is_left(stage)


def _nothing_is_left(stage):
    configuration = (stage / "slurm.conf").read_text()
    cluster = re.search(r"StateSaveLocation=(\S+)/state\n", configuration)[1]
    assert not Path(cluster).exists()
    assert _processes(cluster, str(stage)) == []


def test_without_slurm_it_is_skipped(tmp_path):
    for tool in ("bash", "python3"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    done = subprocess.run(
        [SCRIPT, "--backend=slurm"],
        capture_output=True,
        text=True,
        env={"PATH": str(tmp_path), "PYTHON": sys.executable},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"skipped: slurm: not installed: .*sbatch.*\n", done.stdout)
