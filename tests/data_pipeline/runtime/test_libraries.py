"""The message that matters stands alone: libraries print nothing at their start."""

import logging
import os
import subprocess
import sys

import pytest

from data_pipeline.runtime import libraries

_PROGRAM = """
import jax
from data_pipeline.runtime import cli
from data_pipeline.runtime.errors import UserError

def main(argv):
    print(jax.devices())  # not flushed when standard output is a file
    raise UserError("what matters")

cli.run(main)
"""


def test_an_error_is_the_only_line_of_stderr_and_the_last_of_both():
    inherited = ("TPU_", "TF_CPP", "GRPC_", "PYTHONUNBUFFERED", "JAX_PLATFORMS")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(inherited)}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    assert done.returncode == 2
    lines = done.stdout.splitlines()
    assert lines[-1] == "error: what matters"
    assert len(lines) == 2, done.stdout


def test_settings_of_the_user_and_of_a_machine_with_a_tpu_stay(monkeypatch):
    for name in libraries.WITHOUT_TPU:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    monkeypatch.setattr(libraries, "_has_tpu", lambda: True)
    libraries.quieten()
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"
    assert not libraries.WITHOUT_TPU.keys() & os.environ.keys()
    monkeypatch.setattr(libraries, "_has_tpu", lambda: False)
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "host1,host2")
    libraries.quieten()
    assert os.environ["TPU_WORKER_HOSTNAMES"] == "host1,host2"
    for name in libraries.WITHOUT_TPU:
        monkeypatch.delenv(name)


def test_what_orbax_raises_it_does_not_log_as_well():
    libraries.quieten()
    logger = logging.getLogger("absl")
    failed = (OSError, OSError("no bucket"), None)
    for path, stack in (("orbax", failed), ("orbax", None), ("other", failed)):
        record = logger.makeRecord("absl", 40, f"/a/{path}/b.py", 1, path, (), stack)
        kept = bool(logger.filter(record))
        assert kept == (stack is None or path == "other")


_LATE_WRITE = """
import asyncio, sys
import tensorstore
from data_pipeline.runtime import libraries

class Broken:
    def __del__(self):
        raise RuntimeError("a defect")

async def begin(future):
    return future.__await__().send(None)  # as a task that nobody waits for any more

if sys.argv[1:]:
    libraries.quieten()
    libraries.quieten()
promise, write = tensorstore.Promise.new()
loop = asyncio.new_event_loop()
pending = loop.run_until_complete(begin(write))
loop.close()
promise.set_result(None)
del pending
print("defect next", file=sys.stderr)
Broken()
"""


@pytest.mark.parametrize("quiet", [False, True])
def test_a_write_that_ends_after_a_failed_save_prints_no_stack(quiet):
    command = [sys.executable, "-c", _LATE_WRITE, *["quieten"] * quiet]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    late, defect = done.stderr.split("defect next")
    assert ("Event loop is closed" in late) == (not quiet)
    assert not quiet or not late.strip()
    assert defect.count("RuntimeError: a defect") == 1
