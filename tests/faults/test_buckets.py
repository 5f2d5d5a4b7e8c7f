"""Runs in a bucket end like local ones: killed, continued on other hosts, damaged, cut off.

A small form runs with the other tests. The full one, by one command:

    GPST_BUCKET_KILLS=20 GPST_OBJECT_DAMAGES=100 pytest -s tests/faults/test_buckets.py
"""

import itertools
import json
import os
import random
import socket
import threading
import time

import pytest
import toy_process
from outcome import outcome

from data_pipeline.runtime import buckets
from gpst_jax.checkpoints import manager

KILLS = int(os.environ.get("GPST_BUCKET_KILLS", "3"))
DAMAGES = int(os.environ.get("GPST_OBJECT_DAMAGES", "3"))
STEPS, EVERY = 8, 2
TIMEOUT = 300
STORAGE = 74


@pytest.fixture
def run(bucket, tmp_path):
    """Function (workdir, ...) -> the toy run on a host of its own."""
    numbers, begun = itertools.count(), []

    def begin(workdir, host=0, **options):
        log = tmp_path / f"{next(numbers)}.log"
        there = bucket.environment(tmp_path / f"host-{host}")
        begun.append(toy_process.start(workdir, there, log, steps=STEPS, every=EVERY, **options))
        return begun[-1]

    yield begin
    for one in begun:
        one.process.kill()


@pytest.fixture
def expected(run, tmp_path, known={}):  # noqa: B006
    """How the uninterrupted run ends on a file system."""
    if not known:
        program = run(tmp_path / "whole")
        assert program.end() == 0, program.text()
        known["outcome"] = outcome(tmp_path / "whole")
    return known["outcome"]


def line(program):
    """The one line that an end without success has."""
    assert "Traceback" not in program.text(), program.text()
    (found,) = [line for line in program.text().splitlines() if line.startswith("error: ")]
    return found


START, SAVE, COMMIT = "", f"/{manager.CHECKPOINT_DIRECTORY}/", buckets.COMMIT_FILE


class Kill:
    """Kills a process at a request, which the server then gets or does not.

    Args:
        program: the process.
        number: of the request.
        passed: whether the server gets it.
        since: from when on requests count: START, SAVE (the first write of a checkpoint), COMMIT
            (the first checkpoint that is complete).
    """

    def __init__(self, program, number, passed, since):
        self._program, self._number, self._passed = program, number, passed
        self._since, self._counts, self._lock = since, since == START, threading.Lock()

    def __call__(self, what, name):
        with self._lock:
            self._number -= self._counts
            if what == "write" and self._since in name:
                self._counts = True
            if self._number != 0:
                return None
        self._program.process.kill()
        return None if self._passed else -1


def check_counted(folder):
    """Only complete checkpoints count; returns whether there is another."""
    found = buckets.files(f"{folder}/{manager.CHECKPOINT_DIRECTORY}")
    steps = {int(name.split("/")[0]) for name in found if name[0].isdigit()}
    whole = {step for step in steps if f"{step}/{buckets.COMMIT_FILE}" in found}
    assert set(manager.Checkpoints(folder, writable=False).steps) == whole
    return steps != whole


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT + 120 * KILLS)
def test_killed_and_continued_elsewhere(run, expected, bucket, folder):
    rng = random.Random(0)
    kills, runs, halves, hosts = 0, 0, 0, 0
    while kills < KILLS:
        workdir, here = f"{folder}/{runs}", 0
        runs += 1
        while True:
            program = run(workdir, host=hosts)
            if kills < KILLS:  # the first of a run when it has a checkpoint, then at any moment
                since = rng.choice((START, SAVE, SAVE)) if here else COMMIT
                bucket.fail = Kill(program, rng.randint(1, 60), rng.random() < 0.5, since)
            code = program.end()
            bucket.fail = lambda what, name: None
            assert "damaged" not in program.text()
            if code == 0:
                break
            assert code == -9, program.text()
            kills, here, hosts = kills + 1, here + 1, hosts + rng.randint(0, 1)
            halves += check_counted(workdir)
        assert ("restored step" in program.text()) == (here > 0)
        assert outcome(workdir) == expected
    print(f"{kills} kills in {runs} runs on {hosts + 1} hosts, {halves} in a save, all identical")


def truncate(data, rng):
    return data[: len(data) // 2]


def flip(data, rng):
    changed = bytearray(data)
    if changed:
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def delete(data, rng):
    return None


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT + 60 * DAMAGES)
def test_objects_damaged_in_turn(run, expected, folder):
    whole = f"{folder}/whole"
    program = run(whole)
    assert program.end() == 0, program.text()
    objects = {name: buckets.read(f"{whole}/{name}") for name in buckets.files(whole)}
    newest = [name for name in objects if name.startswith("checkpoints/8/")]
    assert len(newest) > 4
    rng = random.Random(0)
    cases = list(itertools.product(newest, (truncate, flip, delete)))
    rng.shuffle(cases)
    # First the object that holds most of the bytes: what is wrong with it must be noticed.
    cases.insert(0, (max(newest, key=lambda name: len(objects[name])), truncate))
    outcomes = {"noticed": 0, "harmless": 0}
    for number, (name, damage) in enumerate(cases[:DAMAGES]):
        workdir = f"{folder}/{number}"
        for other, data in objects.items():
            changed = damage(data, rng) if other == name else data
            if changed is not None:
                buckets.write(f"{workdir}/{other}", changed)
        program = run(workdir, host=number + 1)
        assert program.end() == 0, program.text()
        assert outcome(workdir) == expected
        aside = any("damaged_checkpoints/8/" in there for there in buckets.files(workdir))
        outcomes["noticed" if aside else "harmless"] += 1
        assert aside or number > 0
    print(f"{len(newest)} objects: {outcomes}")


@pytest.mark.slow
def test_no_intact_checkpoint_is_one_line(run, folder):
    assert run(folder).end() == 0
    for name in buckets.files(f"{folder}/checkpoints"):
        if not name.endswith(buckets.COMMIT_FILE):
            buckets.write(f"{folder}/checkpoints/{name}", b"")
    before = buckets.files(folder)
    program = run(folder)
    assert program.end() == 2, program.text()
    assert "begin anew in another --workdir" in line(program)
    assert before.keys() <= buckets.files(folder).keys()  # nothing is deleted


def answers(bucket, kind):
    """Function (what, name) -> how the bucket answers while it is out of order."""
    rng, lock, released = random.Random(0), threading.Lock(), threading.Event()

    def draw():
        with lock:
            return rng.random()

    def slowly(what, name):
        time.sleep(0.01 if draw() < 0.95 else 0.5)

    def silently(what, name):
        released.wait(20)
        return -1

    kinds = {
        "503": lambda what, name: 503 if draw() < 0.2 else None,
        "429": lambda what, name: 429 if draw() < 0.2 else None,
        "cut": lambda what, name: -1 if draw() < 0.2 else None,
        "slow": slowly,
        "gone": lambda what, name: -1,
        "silent": silently,
    }
    return kinds[kind], released


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["503", "429", "cut", "slow", "gone", "silent"])
def test_a_bucket_out_of_order(run, expected, bucket, folder, kind):
    fails, released = answers(bucket, kind)
    began = threading.Event()

    def fail(what, name):  # from the first write of a checkpoint on
        if what == "write" and "checkpoints/" in name:
            began.set()
        return fails(what, name) if began.is_set() else None

    bucket.fail = fail
    program = run(folder, patient=False)
    code = program.end()
    released.set()
    assert began.is_set()
    bucket.fail = lambda what, name: None
    if kind in ("gone", "silent"):
        assert code == STORAGE, program.text()
    if code != 0:
        assert code == STORAGE, program.text()
        assert folder in line(program)
        assert "run the same command again" in line(program)
        check_counted(folder)
        program = run(folder, host=1)
        assert program.end() == 0, program.text()
    assert outcome(folder) == expected


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def two(run, workdir, **options):
    port = free_port()
    return [
        run(workdir, host=number, processes=2, number=number, port=port, **options)
        for number in (0, 1)
    ]


@pytest.mark.slow
@pytest.mark.timeout(2 * TIMEOUT)
def test_two_processes_write_one_workdir(run, bucket, folder, tmp_path):
    """One of them is killed in a save: both end, and both go on to the same result."""
    for program in two(run, tmp_path / "whole"):
        assert program.end() == 0, program.text()
    programs = two(run, folder)
    bucket.fail = Kill(programs[1], 15, passed=False, since=COMMIT)
    assert programs[1].end() == -9
    assert programs[0].end() != 0
    bucket.fail = lambda what, name: None
    check_counted(folder)
    programs = two(run, folder)
    for program in programs:
        assert program.end() == 0, program.text()
    assert "restored step" in programs[0].text()
    assert outcome(folder) == outcome(tmp_path / "whole")


def command(dataset, config, workdir, steps):
    return [
        "experiments.pretrain",
        *(f"--config={config}", f"--workdir={workdir}", f"--config.data.path={dataset}"),
        *(f"--config.train.steps={steps}", "--config.train.checkpoint_every_steps=8"),
    ]


@pytest.mark.slow
@pytest.mark.timeout(3 * TIMEOUT)
def test_status_and_inspection_and_a_second_writer(
    start, dataset, config, tmp_path, bucket, folder
):
    begin = command(dataset, config, folder, steps=1_000_000)
    one = start(*begin, **bucket.environment(tmp_path))
    while not manager.Checkpoints(folder, writable=False).steps:
        assert one.process.poll() is None, one.text()
        time.sleep(0.5)
    two = start(*begin, **bucket.environment(tmp_path / "b"))
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
    bucket.fail = lambda what, name: 503
    workdir = f"gs://{bucket.name}/run"
    program = start(*command(dataset, config, workdir, steps=8), **bucket.environment(tmp_path))
    assert program.wait(TIMEOUT) == STORAGE, program.text()
    assert workdir in line(program)
