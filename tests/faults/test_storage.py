"""The disk fails below a run: it stops with the cause, and goes on once the disk is well."""

import os
import resource
import shutil
import time

import pytest

from data_pipeline.datasets import examples, token_records
from data_pipeline.datasets.token_records import RecordError, RecordReader
from gpst_jax.checkpoints import manager
from gpst_jax.trackers import jsonl

STORAGE = 74
TIMEOUT = 120


def command(dataset, config, workdir, steps):
    return [
        "experiments.pretrain",
        *(f"--config={config}", f"--workdir={workdir}", f"--config.data.path={dataset}"),
        *(f"--config.train.steps={steps}", "--config.train.checkpoint_every_steps=10"),
    ]


def steps_of(workdir):
    saves = manager.Checkpoints(workdir, writable=False)
    try:
        return saves.steps
    finally:
        saves.close()


def error_line(text):
    """The one line that begins with `error: `, among whatever the threads of libraries print."""
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    return line


def wait_until(condition, program):
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert program.process.poll() is None, program.text()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def lines(workdir):
    return jsonl.read_metrics(workdir / jsonl.METRICS_FILE)


@pytest.mark.slow
@pytest.mark.timeout(4 * TIMEOUT)
@pytest.mark.parametrize("writing", ["metrics", "checkpoints"])
def test_full_disk(writing, start, dataset, config, tmp_path):
    workdir = tmp_path / "run"
    saves = workdir / manager.CHECKPOINT_DIRECTORY
    first = start(*command(dataset, config, workdir, 20))
    assert first.wait(TIMEOUT) == 0, first.text()
    assert steps_of(workdir) == [10, 20]
    # No file may grow beyond 4 KiB, as on a disk without room.
    quiet = ["--config.train.log_every=1000000"] if writing == "checkpoints" else []
    second = start(*command(dataset, config, workdir, 1_000_000), *quiet)
    wait_until(lambda: not (saves / "20").exists(), second)
    resource.prlimit(second.process.pid, resource.RLIMIT_FSIZE, (4096, 4096))
    assert second.wait(TIMEOUT) == STORAGE, second.text()
    line = error_line(second.text())
    assert str(saves if writing == "checkpoints" else workdir) in line
    assert "run the same command again" in line
    last = steps_of(workdir)[-1]
    assert last > 20  # what was saved is still there, and whole
    assert manager.load_params(workdir).step == last
    third = start(*command(dataset, config, workdir, last + 5))
    assert third.wait(TIMEOUT) == 0, third.text()
    assert f"restored step {last}" in third.text()
    if writing == "metrics":
        assert sorted({line["step"] for line in lines(workdir)}) == list(range(1, last + 6))


@pytest.mark.slow
@pytest.mark.timeout(2 * TIMEOUT)
def test_workdir_vanishes(start, dataset, config, tmp_path):
    workdir = tmp_path / "run"
    program = start(*command(dataset, config, workdir, 1_000_000))
    wait_until(lambda: len(lines(workdir)) > 3, program)
    shutil.move(workdir, tmp_path / "gone")
    assert program.wait(TIMEOUT) == STORAGE, program.text()
    assert str(workdir) in error_line(program.text())


@pytest.mark.slow
@pytest.mark.timeout(2 * TIMEOUT)
def test_unreadable_shard_stops_the_run_after_new_tries(start, dataset, config, tmp_path):
    copy = tmp_path / "dataset"
    shutil.copytree(dataset, copy)
    shard = copy / token_records.shard_name("train", 0, 1)
    shard.write_bytes(shard.read_bytes()[:-2000])
    program = start(*command(copy, config, tmp_path / "run", 50))
    assert program.wait(TIMEOUT) == STORAGE, program.text()
    assert shard.name in error_line(program.text())
    assert "retrying in" in program.text()


def test_a_shard_that_comes_back_is_read(dataset, tmp_path, monkeypatch):
    copy = tmp_path / "dataset"
    shutil.copytree(dataset, copy)
    shard = copy / token_records.shard_name("train", 0, 1)
    aside = shard.with_suffix(".aside")
    expected = RecordReader(dataset, "train")[3].id
    reader = RecordReader(copy, "train", (0.25, 0.25))
    os.rename(shard, aside)
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            os.rename(aside, shard)

    monkeypatch.setattr(examples.time, "sleep", sleep)
    assert reader[3].id == expected
    assert waits == [0.25, 0.25]
    os.rename(shard, aside)
    with pytest.raises(RecordError, match=shard.name):
        RecordReader(copy, "train", (0.0,))[3]
