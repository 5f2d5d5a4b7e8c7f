"""How a process joins a run: bad settings are refused, and what is not there yet is waited for."""

import os
import socket
import subprocess
import sys

import pytest

from data_pipeline.runtime.errors import NotReadyError
from gpst_jax.config import ConfigError
from gpst_jax.parallel import multihost


def connect(coordinator, num_processes=2, process_id=1, seconds=1):
    multihost.connect(
        coordinator, num_processes, process_id, connect_seconds=seconds, heartbeat_seconds=10
    )


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("coordinator", "number", "index", "message"),
    [
        ("host", 2, 0, "give HOST:PORT"),
        ("host:", 2, 0, "give HOST:PORT"),
        ("host:port", 2, 0, "give HOST:PORT"),
        ("host:70000", 2, 0, "give HOST:PORT"),
        ("host:80", None, 0, "give --num_processes"),
        ("host:80", 2, None, "--process_id with it"),
        ("host:80", 2, 2, "from 0 to 1"),
    ],
)
def test_bad_settings(coordinator, number, index, message):
    with pytest.raises(ConfigError, match=message):
        connect(coordinator, number, index)


def test_a_port_that_is_taken(port):
    with socket.socket() as other:
        other.bind(("", port))
        other.listen()
        with pytest.raises(NotReadyError, match=f"port {port} of this host cannot be used"):
            connect(f"localhost:{port}", process_id=0)


@pytest.mark.parametrize("host", ["localhost", "no-such-host.invalid", "[::1]"])
def test_a_coordinator_that_does_not_answer(port, host):
    with pytest.raises(NotReadyError, match="process 0 does not answer within 1 s"):
        connect(f"{host}:{port}")


PROGRAM = """
import sys
from data_pipeline.runtime import cli
from gpst_jax.parallel import multihost
def main(argv):
    multihost.connect(argv[1], 2, 0, connect_seconds=2, heartbeat_seconds=10)
cli.run(main)
"""


def test_others_that_do_not_come(port):
    """In a process of its own, which ends: 69 and one line, not an abort of the library."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, f"localhost:{port}"],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 69, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "within 2 s" in line
    assert "Traceback" not in done.stderr


DEVICES = """
import jax
from data_pipeline.runtime import cli
cli.run(lambda argv: print(jax.devices()))
"""


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_an_accelerator_that_does_not_start(platform):
    done = subprocess.run(
        [sys.executable, "-c", DEVICES],
        env=os.environ | {"JAX_PLATFORMS": platform},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    if done.returncode == 0:
        pytest.skip(f"this machine has a {platform}")
    assert done.returncode == 69, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert platform in line
    assert "Traceback" not in done.stderr
