"""Several processes: one dies and all end; any number of processes goes on from there.

A small form runs with the other tests. The full one, by one command:

    GPST_PROCESS_KILLS=20 pytest -s tests/faults/test_processes.py
"""

import os
import random
import signal
import socket
import time

import numpy as np
import pytest
from programs import XLA_FLAGS

from gpst_jax.checkpoints import manager
from gpst_jax.trackers import jsonl

KILLS = int(os.environ.get("GPST_PROCESS_KILLS", "1"))
DEVICES = 4
STEPS = 60
HEARTBEAT = 10  # seconds
# From the death of one process to the end of the others: heartbeats, then the abort of each.
ALL_ENDED = 3 * HEARTBEAT
TIMEOUT = 240


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def begin(start, number, dataset, config, workdir, *settings, steps=STEPS):
    """Starts the program in `number` processes with four devices together."""
    extra = {
        "XLA_FLAGS": f"{XLA_FLAGS} --xla_force_host_platform_device_count={DEVICES // number}",
        "NPROC": "16",  # threads of the collectives: with the cores' number they can starve
    }
    address = []
    if number > 1:
        address = [f"--coordinator=localhost:{free_port()}", f"--num_processes={number}"]
        # On CPUs only process 0 finds its programs in a compilation cache. It would wait for the
        # others to compile, and gloo lets a group wait for its first collective 30 s at most.
        extra["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    return [
        start(
            "experiments.pretrain",
            *(f"--config={config}", f"--workdir={workdir}", f"--config.data.path={dataset}"),
            *(f"--config.train.steps={steps}", "--config.train.checkpoint_every_steps=5"),
            *("--config.data.batch_size=4", f"--heartbeat_seconds={HEARTBEAT}", *settings),
            *([*address, f"--process_id={index}"] if address else []),
            **extra,
        )
        for index in range(number)
    ]


def losses(workdir):
    lines = jsonl.read_metrics(workdir / jsonl.METRICS_FILE)
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


def finish(programs):
    for program in programs:
        assert program.wait(TIMEOUT) == 0, program.text()


@pytest.fixture
def uninterrupted(start, dataset, config, tmp_path):
    workdir = tmp_path / "whole"
    finish(begin(start, 1, dataset, config, workdir))
    return workdir


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT * (2 + 2 * KILLS))
def test_one_of_two_dies_and_any_number_goes_on(start, dataset, config, tmp_path, uninterrupted):
    rng = random.Random(0)
    longest = 0.0
    for kill in range(KILLS):
        workdir = tmp_path / f"run-{kill}"
        programs = begin(start, 2, dataset, config, workdir, steps=1_000_000)
        victim = programs.pop(rng.randrange(2))
        deadline = time.monotonic() + TIMEOUT
        wanted = rng.randint(6, 30)
        while len(losses(workdir)) < wanted:
            assert time.monotonic() < deadline
            assert victim.process.poll() is None, victim.text()
            time.sleep(0.02)
        victim.process.send_signal(signal.SIGKILL)
        died = time.monotonic()
        for other in programs:
            assert other.wait(TIMEOUT) != 0
            longest = max(longest, time.monotonic() - died)
            text = other.text()
            assert "most recent call first" in text or "Traceback" in text, text  # its stacks
        number = (4, 1, 2)[kill % 3]
        reached = max(STEPS, manager.load_params(workdir).step + 5)
        finish(begin(start, number, dataset, config, workdir, steps=reached))
        # The same batches: the losses differ by the order of sums, no more.
        ours, theirs = losses(workdir), losses(uninterrupted)
        assert list(ours) == list(range(1, reached + 1))
        np.testing.assert_allclose(
            [ours[step] for step in theirs], list(theirs.values()), rtol=2e-4, atol=2e-4
        )
    print(f"{KILLS} kills, all processes ended within {longest:.1f} s")
    assert longest < ALL_ENDED


@pytest.mark.slow
@pytest.mark.timeout(2 * TIMEOUT)
def test_sigterm_to_one_saves_in_all(start, dataset, config, tmp_path):
    programs = begin(start, 2, dataset, config, tmp_path / "run", steps=1_000_000)
    deadline = time.monotonic() + TIMEOUT
    while len(losses(tmp_path / "run")) < 3:
        assert time.monotonic() < deadline, programs[0].text()
        assert all(program.process.poll() is None for program in programs), programs[0].text()
        time.sleep(0.02)
    programs[1].process.send_signal(signal.SIGTERM)
    assert [program.wait(TIMEOUT) for program in programs] == [75, 75]
    last = max(losses(tmp_path / "run"))
    assert manager.load_params(tmp_path / "run").step == last


@pytest.mark.slow
@pytest.mark.timeout(2 * TIMEOUT)
def test_two_processes_preview_what_one_does(start, dataset, config, tmp_path):
    settings = ("--config.train.preview_every=4", "--config.mesh.fsdp=4")
    entropy = {}
    for number in (1, 2):
        workdir = tmp_path / str(number)
        finish(begin(start, number, dataset, config, workdir, *settings, steps=4))
        entropy[number] = [
            value
            for line in jsonl.read_metrics(workdir / jsonl.METRICS_FILE)
            for name, value in line.items()
            if name.startswith("preview/code_entropy")
        ]
        events = b"".join(path.read_bytes() for path in (workdir / "tensorboard").iterdir())
        assert b"preview/0" in events
    assert len(entropy[1]) == 2  # codebooks
    assert min(entropy[1]) > 0
    np.testing.assert_allclose(entropy[2], entropy[1], atol=0.1)


@pytest.mark.timeout(120)
def test_waiting_for_a_process_that_never_comes_ends_in_time(start, dataset, config, tmp_path):
    program = start(
        "experiments.pretrain",
        *(f"--config={config}", f"--workdir={tmp_path / 'run'}", f"--config.data.path={dataset}"),
        *(f"--coordinator=localhost:{free_port()}", "--num_processes=2", "--process_id=0"),
        "--connect_seconds=3",
    )
    assert program.wait(100) != 0
    assert "process 0 of 2: all must connect within 3 s" in program.text()
