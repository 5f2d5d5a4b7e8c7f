"""Runs in a bucket: killed, and continued on another host, they end like a local one.

GPST_BUCKET_KILLS=20 pytest -s tests/faults/test_buckets.py
"""

import contextlib
import json
import os
import random
import subprocess
import time

import jax
import pytest

from data_pipeline.runtime import buckets
from gpst_jax.checkpoints import manager
from gpst_jax.parallel.sharding import path_string
from gpst_jax.trackers import jsonl

KILLS = int(os.environ.get("GPST_BUCKET_KILLS", "2"))
STEPS = 120
TIMEOUT = 300
STORAGE = 74


def command(dataset, config, workdir, steps=STEPS, every=8):
    return [
        "experiments.pretrain",
        *(f"--config={config}", f"--workdir={workdir}", f"--config.data.path={dataset}"),
        *(f"--config.train.steps={steps}", f"--config.train.checkpoint_every_steps={every}"),
    ]


def outcome(workdir):
    """What must be equal: parameters, the loader's state, and every line of the metrics."""
    model = manager.load_params(workdir, average=False)
    saves = manager.Checkpoints(workdir, writable=False)
    saves.verify(model.step)
    data = saves.read_record(model.step)["data"]
    saves.close()
    leaves = jax.tree.leaves_with_path(jax.device_get(model.params))
    params = {path_string(path): (leaf.dtype, leaf.shape, leaf.tobytes()) for path, leaf in leaves}
    lines = [
        {name: value for name, value in line.items() if not name.startswith(("time", "perf/"))}
        for line in jsonl.read_metrics(f"{workdir}/{jsonl.METRICS_FILE}")
    ]
    return params, model.step, data, lines


@pytest.mark.slow
@pytest.mark.timeout(2 * TIMEOUT + 120 * KILLS)
def test_killed_and_continued_elsewhere(start, dataset, config, tmp_path, bucket, folder):
    program = start(*command(dataset, config, tmp_path / "whole"))
    assert program.wait(TIMEOUT) == 0, program.text()
    expected = outcome(tmp_path / "whole")
    rng, kills, restored, began = random.Random(0), 0, 0, time.monotonic()
    window = None
    while True:
        host = bucket.environment(tmp_path / f"host-{kills}")
        program = start(*command(dataset, config, folder), **host)
        if kills < KILLS:
            if window is None:  # the time of a start, measured once
                while jsonl.METRICS_FILE not in buckets.files(folder):
                    assert program.process.poll() is None, program.text()
                    time.sleep(0.2)
                window = time.monotonic() - began
            else:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    program.wait(rng.uniform(0.5, 1.5) * window)
            program.process.kill()
        code = program.wait(TIMEOUT)
        restored += "restored step" in program.text()
        if code == 0:
            break
        assert code == -9, program.text()
        kills += 1
    assert outcome(folder) == expected
    assert "damaged" not in program.text()
    print(f"{kills} kills, {restored} starts from a checkpoint, identical")


@pytest.mark.slow
@pytest.mark.timeout(3 * TIMEOUT)
def test_status_and_inspection_and_a_second_writer(
    start, dataset, config, tmp_path, bucket, folder
):
    one = start(*command(dataset, config, folder, steps=1_000_000), **bucket.environment(tmp_path))
    while not manager.Checkpoints(folder, writable=False).steps:
        assert one.process.poll() is None, one.text()
        time.sleep(0.5)
    two = start(*command(dataset, config, folder), **bucket.environment(tmp_path / "b"))
    assert two.wait(TIMEOUT) == 2, two.text()
    assert f"another process is writing {folder}" in two.text()
    one.process.terminate()
    assert one.wait(TIMEOUT) == 75, one.text()
    out = tmp_path / "out.json"
    shown = start(
        *("experiments.status", f"--workdir={folder}", f"--json_out={out}"),
        **bucket.environment(tmp_path / "c"),
    )
    assert shown.wait(TIMEOUT) == 0, shown.text()
    status = json.loads(out.read_text())
    assert status["step"] == status["checkpoint_step"] > 0
    assert status["steps"] == 1_000_000
    looked = start(
        *("experiments.inspect_checkpoint", f"--workdir={folder}", f"--json_out={out}"),
        **bucket.environment(tmp_path / "d"),
    )
    assert looked.wait(TIMEOUT) == 0, looked.text()
    assert json.loads(out.read_text())["step"] == status["step"]
    assert not [name for name in buckets.files(folder) if name.startswith(".")]  # no claim is left


@pytest.mark.slow
@pytest.mark.timeout(2 * TIMEOUT)
def test_a_bucket_that_does_not_answer_is_one_line(start, dataset, config, tmp_path, bucket):
    bucket.fail = lambda method, path: 503
    program = start(
        *command(dataset, config, f"gs://{bucket.name}/run"), **bucket.environment(tmp_path)
    )
    assert program.wait(TIMEOUT) == STORAGE, program.text()
    assert "Traceback" not in program.text()
    (line,) = [line for line in program.text().splitlines() if line.startswith("error: ")]
    assert f"gs://{bucket.name}/run" in line
