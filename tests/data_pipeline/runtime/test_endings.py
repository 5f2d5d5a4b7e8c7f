"""An exit code means one thing: which failures end a program with which code, in one line."""

import errno
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline.runtime import exit_codes
from data_pipeline.runtime.endings import ending
from data_pipeline.runtime.errors import NotReadyError, UserError

ROOT = Path(__file__).resolve().parents[3]


class JaxRuntimeError(RuntimeError):
    """Named as JAX names it, which this layer does not import."""


def caused(cause):
    error = UserError("cannot write x")
    error.__cause__ = RuntimeError("fitting")
    error.__cause__.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("bad"), 2),
        (caused(OSError(errno.ENOENT, "no such file", "x")), 2),
        (caused(OSError(errno.ENOSPC, "No space left on device", "x")), 74),
        (caused(RuntimeError("write() failed: No space left on device; writing /x")), 74),
        (NotReadyError("port 1 is taken"), 69),
        (OSError(errno.ENOSPC, "No space left on device", "/out/shard"), 74),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 74),
        (OSError(errno.EIO, "Input/output error", "/out/shard"), 74),
        (RuntimeError("write() failed: File too large; writing /out"), 74),
        (shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")]), 74),
        (OSError(errno.ENAMETOOLONG, "File name too long", "y" * 300), 2),
        (RuntimeError("open() failed: File name too long; opening /y"), 2),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), 2),
        (OSError(errno.EADDRINUSE, "Address already in use"), 69),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), 69),
        (RuntimeError("Unable to initialize backend 'tpu': UNKNOWN: in use"), 69),
        (JaxRuntimeError("ABORTED: The TPU is already in use by process with pid 7"), 69),
        (JaxRuntimeError("UNAVAILABLE: connection to the coordination service"), 69),
        (JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes"), 5),
        (MemoryError(), 5),
    ],
)
def test_failures_that_are_no_defects(error, code):
    found, message = ending(error)
    assert found == code
    assert message
    assert "\n" not in message
    assert len(message) < 600


@pytest.mark.parametrize(
    "error",
    [
        KeyError("bug"),
        ValueError("UNAVAILABLE is just a word here"),
        RuntimeError("a bug"),
        JaxRuntimeError("INTERNAL: a bug"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "own.tmp"),
    ],
)
def test_a_defect_keeps_its_traceback(error):
    assert ending(error) is None


def test_a_full_disk_in_a_worker_process_arrives_as_such():
    error = pickle.loads(pickle.dumps(OSError(errno.ENOSPC, "No space left on device", "/x")))
    assert ending(error)[0] == exit_codes.STORAGE


def test_one_table_for_programs_scripts_and_page():
    table = {
        name: value
        for name, value in vars(exit_codes).items()
        if name.isupper() and name not in ("LAST_FINAL", "SIGINT")
    }
    assert len(set(table.values())) == len(table)
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = [int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)]
    assert rows == sorted(table.values())
    script = (ROOT / "tpu_scripts" / "supervise.sh").read_text()
    assert f"LAST_FINAL={exit_codes.LAST_FINAL} " in script


PROGRAM = """
import errno, sys
from absl import flags
from data_pipeline.runtime import cli
flags.DEFINE_integer("count", 1, "How many.", 1)
flags.DEFINE_float("seconds", 1.0, "How long.", 0)
flags.DEFINE_string("workdir", None, "Where.", required=True)
def main(argv):
    if flags.FLAGS.workdir == "interrupt":
        raise KeyboardInterrupt
    raise OSError(errno.ENOSPC, "No space left on device", "/out/shard")
cli.run(main)
"""


def test_the_ends_of_a_program():
    """All in parallel: each is a process of its own."""
    expected = {
        ("--workdir=x",): (74, "error: the storage failed: /out/shard: No space left on device"),
        ("--workdir=interrupt",): (130, "interrupted: the same command goes on"),
        ("--workdir=x", "--count=0"): (2, "error: --count=0: 0 is not a positive integer"),
        ("--workdir=x", "--count=many"): (2, "error: --count=many: invalid literal"),
        ("--workdir=x", "--seconds=nan"): (2, "error: --seconds=nan: give a finite number"),
        ("--workdir=x", "--seconds=inf"): (2, "error: --seconds=inf: give a finite number"),
        ("--workdir=x", "--wrkdir=x"): (2, "error: Unknown command line flag 'wrkdir'"),
        (): (2, "error: --workdir: required; --help lists the flags"),
        ("--help",): (0, ""),
    }
    running = {
        words: subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words in expected
    }
    for words, (code, line) in expected.items():
        _, errors = running[words].communicate(timeout=240)
        assert running[words].returncode == code, errors
        shown = errors.strip()
        assert shown.startswith(line), errors
        assert "\n" not in shown
