"""The dress rehearsal, and the hosts' script that it goes through.

A small form runs with the other tests. The full one, by one command:

    GPST_FULL_REHEARSAL=1 pytest -s tests/tpu_scripts/test_rehearse.py
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
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
        [ROOT / "tpu_scripts" / "rehearse.sh", f"--keep={stage}", *flags],
        capture_output=True,
        text=True,
        env=environment,
        timeout=TIMEOUT,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the same, bit for bit") == (3 if FULL else 1)
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


@pytest.mark.parametrize("word", ["--what", "--backend=slurm", "x"])
def test_bad_flags_are_one_line(word):
    command = [ROOT / "tpu_scripts" / "rehearse.sh", word]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
