"""The supervisor of one host: what it starts again, how often, and what ends it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tpu_scripts" / "supervise.sh"
# Appends its arguments to a file and ends with the code that stands for this try.
FAKE = """
import sys
log, codes, *arguments = sys.argv[1:]
with open(log, "a") as file:
    file.write(repr(arguments) + "\\n")
tries = len(open(log).readlines())
code = int(codes.split(",")[tries - 1])
if code < 0:
    import os
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


def run(tmp_path, codes, *flags, arguments=()):
    command = [sys.executable, "-c", FAKE, str(tmp_path / "log"), codes, *arguments]
    done = subprocess.run(
        [SCRIPT, *flags, "--wait=0", "--", *command], capture_output=True, text=True, timeout=240
    )
    log = tmp_path / "log"
    return done, log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize(
    ("codes", "tries", "last"),
    [
        *((str(code), 1, code) for code in (0, 1, 2, 3, 4, 5, 126, 127)),
        ("75,74,70,69,-9,0", 6, 0),
        ("134,1", 2, 1),
    ],
)
def test_what_is_started_again(tmp_path, codes, tries, last):
    done, log = run(tmp_path, codes)
    assert (done.returncode, len(log)) == (last, tries), done.stderr
    assert done.stderr.count("starting again") == tries - 1


def test_it_gives_up(tmp_path):
    done, log = run(tmp_path, "75,75,75,0", "--max_tries=3")
    assert (done.returncode, len(log)) == (75, 3)
    assert "75 at try 3 of 3: giving up" in done.stderr


def test_arguments_arrive_as_they_are(tmp_path):
    given = ["--config.data.path=with space", "*", "$HOME", "", "it's", 'a"b']
    done, log = run(tmp_path, "75,0", arguments=given)
    assert done.returncode == 0
    assert log == [repr(given)] * 2


@pytest.mark.parametrize("flags", [["--max_tries=0"], ["--max_tries=x"], ["--what"]])
def test_bad_flags_are_one_line(tmp_path, flags):
    done, log = run(tmp_path, "0", *flags)
    assert (done.returncode, log) == (2, [])
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_command_and_ends_the_supervisor(tmp_path, number):
    """The command takes its time to save, then ends with 75: it is not started again."""
    code = (
        "import signal, sys, time\n"
        "def leave(*_):\n"
        "    time.sleep(0.5); open(sys.argv[1] + '/saved', 'a').write('x'); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, leave); signal.signal(signal.SIGINT, leave)\n"
        "open(sys.argv[1] + '/ready', 'w').close(); time.sleep(60)\n"
    )
    command = [SCRIPT, "--wait=0", "--", sys.executable, "-c", code, str(tmp_path)]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "ready").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(30) == 75
    finally:
        process.kill()
    assert (tmp_path / "saved").read_text() == "x"
