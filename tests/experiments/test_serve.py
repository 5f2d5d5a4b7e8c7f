"""The program that serves the page: refusals of one line, its port, its end."""

import re
import shutil
import signal
import socket
import time
import urllib.request

import programs
import pytest
from bucket_server import bucket, folder  # noqa: F401
from small_run import Program, start  # noqa: F401
from stored_archive import unpack_with_recordings

from data_pipeline.runtime import buckets, mirror

pytest.importorskip("gradio", reason="the extra serve is not installed")


@pytest.fixture
def environment() -> dict[str, str]:
    return programs.environment()


def test_a_port_in_use_is_one_line(start, tmp_path):  # noqa: F811
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        program = start("experiments.serve", f"--workdir={tmp_path}", f"--port={port}")
        assert program.wait(60) == 69
    assert program.text().strip().splitlines()[-1].startswith(f"error: --port={port}: ")


def served_port(program: Program) -> int:
    """Where the page is, as soon as it is there."""
    found = None
    for _ in range(600):
        found = re.search(r"page: http://127\.0\.0\.1:(\d+)", program.text())
        if found or program.process.poll() is not None:
            break
        time.sleep(0.1)
    assert found, program.text()
    return int(found[1])


def test_it_serves_this_machine_only_and_ends_with_a_signal(start, tmp_path):  # noqa: F811
    stored = unpack_with_recordings(tmp_path)
    program = start(
        "experiments.serve",
        f"--workdir={stored / 'runs' / 'flow'}",
        f"--dataset={stored / 'tokens'}",
        "--port=0",
    )
    with socket.create_connection(("127.0.0.1", served_port(program)), 5):
        pass
    assert "no examples: " in program.text()
    program.process.send_signal(signal.SIGTERM)
    assert program.wait(30) == 75
    assert "Traceback" not in program.text()


def test_a_run_in_a_bucket_is_served(start, tmp_path, bucket, folder):  # noqa: F811
    stored = unpack_with_recordings(tmp_path / "stored")
    for name, source in (("run", stored / "runs" / "gpst"), ("tokens", stored / "tokens")):
        with mirror.made(f"{folder}/{name}") as path:
            shutil.copytree(source, path)
    before = set(buckets.files(folder))
    program = start(
        *("experiments.serve", f"--workdir={folder}/run", f"--dataset={folder}/tokens"),
        "--port=0",
        **bucket.environment(tmp_path / "host"),
    )
    with urllib.request.urlopen(f"http://127.0.0.1:{served_port(program)}/", timeout=240) as page:
        assert b"gradio" in page.read()
    program.process.send_signal(signal.SIGTERM)
    assert program.wait(30) == 75, program.text()
    assert "Traceback" not in program.text()
    assert set(buckets.files(folder)) == before
