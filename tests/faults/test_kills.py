"""Kill -9 at random moments of a training run: it resumes to the very same parameters.

A small form runs with the other tests. The full one, by one command:

    GPST_TRAIN_KILLS=200 pytest -s tests/faults/test_kills.py
"""

import os
import random
import subprocess
import time

import pytest
from outcome import outcome

from gpst_jax.trackers import jsonl

KILLS = int(os.environ.get("GPST_TRAIN_KILLS", "4"))
KILLS_PER_RUN = 40
STEPS = 300 if KILLS < 20 else 1500
TIMEOUT = 600  # of one run, on a machine that has other things to do


def command(dataset, config, workdir):
    """Saves every 8 steps, so that many kills fall into a save."""
    return [
        "experiments.pretrain",
        *(f"--config={config}", f"--workdir={workdir}", f"--config.data.path={dataset}"),
        *(f"--config.train.steps={STEPS}", "--config.train.checkpoint_every_steps=8"),
    ]


@pytest.mark.slow
@pytest.mark.timeout(4 * TIMEOUT + 120 * KILLS)
def test_killed_runs_end_like_the_uninterrupted_one(start, dataset, config, tmp_path):
    whole = tmp_path / "whole"
    program = start(*command(dataset, config, whole))  # compiles
    assert program.wait(TIMEOUT) == 0, program.text()
    expected = outcome(whole)
    began = time.monotonic()
    again = start(*command(dataset, config, tmp_path / "again"))
    while not jsonl.read_metrics(tmp_path / "again" / jsonl.METRICS_FILE):
        assert again.process.poll() is None, again.text()
        time.sleep(0.1)
    window = 2 * (time.monotonic() - began)  # half of the kills before the first step, half after
    assert again.wait(TIMEOUT) == 0, again.text()
    assert outcome(tmp_path / "again") == expected
    rng = random.Random(0)
    kills, run, fallbacks, restored = 0, 0, 0, 0
    while kills < KILLS:
        workdir = tmp_path / f"run-{run}"
        run, here = run + 1, 0
        while True:
            program = start(*command(dataset, config, workdir))
            if kills < KILLS and here < KILLS_PER_RUN:
                try:
                    program.wait(rng.uniform(0, window))
                except subprocess.TimeoutExpired:
                    program.process.kill()
            code = program.wait(TIMEOUT)
            restored += "restored step" in program.text()
            fallbacks += "damaged" in program.text()
            if code == 0:
                break
            assert code == -9, program.text()
            kills, here = kills + 1, here + 1
        assert outcome(workdir) == expected
        print(f"{kills} kills in {run} runs, {restored} starts from a checkpoint, all identical")
    assert fallbacks == 0  # a half-written checkpoint is never taken for a whole one
