"""One process per directory: live holders are named and refused, dead ones replaced."""

import dataclasses
import fcntl
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from data_pipeline.runtime import claim
from data_pipeline.runtime.errors import UserError

OTHER = claim.Holder("far-away", 7, "2026-01-01 00:00:00 UTC", "another boot", 5, "their id")


@pytest.fixture
def quick(monkeypatch):
    for name, seconds in (("BEAT", 0.05), ("DEAD", 0.6), ("_POLL", 0.05), ("_SETTLE", 0.05)):
        monkeypatch.setattr(claim, f"{name}_SECONDS", seconds)


def leave(directory, holder, age=0.0):
    """A claim as its holder left it, so many seconds ago."""
    path = directory / claim.CLAIM_FILE
    path.write_text(json.dumps(dataclasses.asdict(holder)))
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_a_second_claim_names_the_holder(tmp_path):
    with claim.claimed(tmp_path / "new" / "directory") as mine:
        assert claim.holder(tmp_path / "new" / "directory") == mine
        with (
            pytest.raises(
                UserError, match=f"another process .*process {os.getpid()} on .* since 2"
            ),
            claim.claimed(tmp_path / "new" / "directory"),
        ):
            pass
        assert claim.holder(tmp_path / "new" / "directory") == mine
    assert os.listdir(tmp_path / "new" / "directory") == []
    with claim.claimed(tmp_path / "new" / "directory"):
        pass


def test_it_is_released_after_an_error(tmp_path):
    with pytest.raises(KeyError), claim.claimed(tmp_path):
        raise KeyError
    assert claim.holder(tmp_path) is None


HOLD = """
import sys, time
from data_pipeline.runtime import claim
with claim.claimed(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_is_refused_until_it_is_killed(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {process.pid} on"), claim.claimed(tmp_path):
            pass
    finally:
        process.kill()
        process.wait()
    assert claim.holder(tmp_path).pid == process.pid
    with claim.claimed(tmp_path) as mine:
        assert mine.pid == os.getpid()


@pytest.mark.parametrize("started", ["same", "other"])
def test_a_process_id_counts_with_the_start_of_its_process(tmp_path, monkeypatch, started):
    """Where the file system has no locks; the id of a dead process may be given to another."""

    def no_locks(*unused):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    mine = claim.this_process()
    leave(tmp_path, mine if started == "same" else dataclasses.replace(mine, started=1))
    if started == "same":
        with pytest.raises(UserError, match="another process"), claim.claimed(tmp_path):
            pass
    else:
        with claim.claimed(tmp_path):
            pass


def test_a_host_that_beats_is_refused(tmp_path, quick, capsys):
    path = leave(tmp_path, OTHER)
    ended = threading.Event()

    def beat():
        number = 0
        while not ended.wait(0.1):
            number += 1
            path.write_text(json.dumps(dataclasses.asdict(OTHER) | {"beat": number}))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match="process 7 on far-away"), claim.claimed(tmp_path):
            pass
    finally:
        ended.set()
        thread.join()
    assert claim.holder(tmp_path).id == OTHER.id
    assert "watching" in capsys.readouterr().err


def test_a_silent_host_is_replaced(tmp_path, quick):
    leave(tmp_path, OTHER)
    began = time.monotonic()
    with claim.claimed(tmp_path) as mine:
        assert time.monotonic() - began > claim.DEAD_SECONDS
        assert claim.holder(tmp_path).id == mine.id


def test_an_old_claim_of_another_host_is_replaced_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "_SETTLE_SECONDS", 0.01)
    leave(tmp_path, OTHER, age=2 * claim.DEAD_SECONDS)
    began = time.monotonic()
    with claim.claimed(tmp_path):
        assert time.monotonic() - began < 5


def test_a_holder_beats(tmp_path, quick):
    with claim.claimed(tmp_path) as mine:
        deadline = time.monotonic() + 10
        while claim.holder(tmp_path).beat < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert claim.holder(tmp_path).id == mine.id


def test_a_holder_that_was_replaced_ends(tmp_path):
    quick = "import data_pipeline.runtime.claim as c; c.BEAT_SECONDS = 0.1\n"
    process = subprocess.Popen(
        [sys.executable, "-c", quick + HOLD, tmp_path],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "held\n"
        other = tmp_path / "other"
        other.write_text(json.dumps(dataclasses.asdict(OTHER)))
        os.replace(other, tmp_path / claim.CLAIM_FILE)
        _, errors = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 74
    assert "process 7 on far-away" in errors


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": "x"}'])
def test_a_damaged_claim_that_nobody_holds_is_replaced(tmp_path, content):
    (tmp_path / claim.CLAIM_FILE).write_text(content)
    with claim.claimed(tmp_path) as mine:
        assert claim.holder(tmp_path) == mine


def test_a_directory_that_vanishes_ends_quietly(tmp_path, quick):
    with claim.claimed(tmp_path / "run"):
        os.rename(tmp_path / "run", tmp_path / "gone")
        time.sleep(0.2)


@pytest.mark.parametrize("name", ["[a]", "a*", "a?", "{a,b}", "a b", "é\n日", "#%20@", "x" * 240])
def test_any_name(tmp_path, name):
    with (
        claim.claimed(tmp_path / name),
        pytest.raises(UserError, match="another"),
        claim.claimed(tmp_path / name),
    ):
        pass


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(UserError, match="too long"), claim.claimed(tmp_path / ("y" * 300)):
        pass
