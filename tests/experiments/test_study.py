"""Studies: killed anywhere, no finished cell is repeated; pages come from the records alone."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import programs
import pytest

from data_pipeline.runtime import claim
from experiments import child_programs

STUDY = """
from gpst_jax.studies.definition import Call, Cell, Comparison, Study
from gpst_jax.studies.figures import TrainingFigure

def get_study():
    more = ("train.checkpoint_every_steps=20", "train.steps=STEPS")
    cells = tuple(
        Cell(name, "CONFIG", (f"optimizer.learning_rate={rate}", *more))
        for name, rate in (("slow", 1e-3), ("fast", 3e-3))
    )
    loss = TrainingFigure("loss", "held-out loss", "eval/loss", 1.0, 4, "lower")
    return Study(
        "toy", "Which rate?", cells, (loss,), (0, 1), (Comparison("slow", ("fast",)),)
    )
"""


@pytest.fixture
def study(tmp_path, config) -> Path:
    path = tmp_path / "toy.py"
    path.write_text(STUDY.replace("CONFIG", str(config)).replace("STEPS", "300"))
    return path


# Calls the program several times in one process; a function stands for pretrain.
DRIVER = """
import contextlib, io, json, sys
from pathlib import Path
from absl import flags
from data_pipeline.runtime import cli
from experiments import child_programs, study

started = []

def run(command, output, defaults):
    words = dict(word.split("=", 1) for word in command[3:])
    path = Path(words["--json_out"])
    started.append(path.parent.name)
    output.write(b"$ python\\nerror: training diverged: on purpose\\nmore\\n")
    if path.parent.name in plan.get("fails", ()):
        return 4, False
    if path.parent.name in plan.get("stops", ()):
        return 75, False
    rate = float(words["--config.optimizer.learning_rate"])
    path.write_text(json.dumps({"steps": 300, "final": {"eval/loss": 1 / rate}}))
    return 0, False

child_programs.run = run
found = []
for plan in json.load(sys.stdin):
    flags.FLAGS.unparse_flags()
    sys.argv[1:] = plan["words"]
    started.clear()
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            cli.run(study.main)
        except SystemExit as end:
            found.append([end.code, list(started), out.getvalue(), error.getvalue()])
print(json.dumps(found))
"""


def test_failed_cells_leave_the_others_finished_ones_stay_and_changed_ones_are_refused(
    study, dataset, environment, tmp_path
):
    output, changed = tmp_path / "docs", tmp_path / "changed.py"
    changed.write_text(study.read_text().replace("3e-3", "4e-3"))
    render = [f"--study={study}", f"--output={output}", "--render"]
    common = [f"--study={study}", f"--output={output}", f"--tokens={dataset}"]
    here = [*common, f"--workdir={tmp_path / 'w'}"]
    plans = [
        {"words": render},
        {"words": [*here, "--cells=slow", "--seeds=1"]},
        {"words": here, "fails": ["fast-0"], "stops": ["fast-1"]},
        {"words": here},
        {"words": [*common, f"--workdir={tmp_path / 'elsewhere'}"]},
        {"words": [*here[:-1], f"--study={changed}", f"--workdir={tmp_path / 'w2'}"]},
        {"words": [*here, "--cells=none"]},
        {"words": [*here, "--seeds=7"]},
        {"words": [f"--study={study}", f"--output={tmp_path / 'new'}"]},
        {"words": [*here, "--run=w"]},
        {
            "words": [*common, f"--workdir={tmp_path / 'w3'}", f"--output={tmp_path / 'partial'}"],
            "fails": ["slow-0"],
        },
    ]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], input=json.dumps(plans), cwd=tmp_path,
        env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    empty, one, failed, rest, other, refused, cell, seed, missing, unused, partial = json.loads(
        done.stdout.splitlines()[-1]
    )
    assert empty[:2] == [0, []]
    assert one[:2] == [0, ["slow-1"]], one
    assert failed[:2] == [75, ["slow-0", "fast-0", "fast-1"]], failed
    assert "failed: train: exit code 4: training diverged: on purpose" in failed[2]
    assert rest[:2] == [0, ["fast-0", "fast-1"]], rest
    assert other[:2] == [0, []]  # of the records, on any machine
    assert refused[:2] == [2, []]
    assert "config.optimizer.learning_rate was 0.003 and is 0.004" in refused[3]
    assert cell[0] == seed[0] == missing[0] == unused[0] == 2
    assert "study 'toy' has slow, fast" in cell[3]
    assert "study 'toy' has 0, 1" in seed[3]
    assert "--tokens is missing" in missing[3]
    assert "--run: is not used" in unused[3]
    assert partial[:2] == [3, ["slow-0", "fast-0", "slow-1", "fast-1"]]
    assert "failed: slow, seed 0: train: exit code 4" in partial[2]
    assert "1 of 4 cells and seeds" in (tmp_path / "partial" / "toy.md").read_text()
    text = (output / "toy.md").read_text()
    assert "| fast | 2 |" in text
    assert "single runs, 2 of each" in text
    record = json.loads((output / "results" / "toy" / "fast-1.json").read_text())
    assert record["scores"]["loss"] == {"value": 1 / 3e-3, "ci95": None, "n": 1}
    assert not re.search(r"/(tmp|home|root)/", json.dumps(record).replace(str(study.parent), ""))
    known = {"commit", "config_hash", "machine", "versions", "date", "command", "inputs"}
    assert known <= record.keys()


LEAVES_ONE_BEHIND = """
import multiprocessing, os, signal, sys, time
if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    process.start()
    print(process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_program_leaves_behind_is_ended_and_holds_no_lock(tmp_path):
    program, log = tmp_path / "program.py", tmp_path / "program.log"
    program.write_text(LEAVES_ONE_BEHIND)
    with child_programs.held(log) as held:
        code, stopped = child_programs.run([sys.executable, str(program)], held)
    assert (code, stopped) == (-signal.SIGKILL, False)
    left = Path(f"/proc/{log.read_text().split()[-1]}/stat")
    deadline = time.monotonic() + 20
    while left.exists() and left.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with child_programs.held(log):
        pass


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_killed_between_and_inside_cells_repeats_no_finished_one(study, dataset, tmp_path):
    output, workdir = tmp_path / "docs", tmp_path / "w"
    command = [
        *(sys.executable, "-m", "experiments.study", f"--study={study}", f"--tokens={dataset}"),
        *(f"--output={output}", f"--workdir={workdir}"),
    ]
    environment = programs.environment()
    results = output / "results" / "toy"

    def in_progress() -> list[Path]:
        runs = [path.parents[1] for path in workdir.glob("*/train/metrics.jsonl")]
        return [run for run in runs if not (results / f"{run.name}.json").exists()]

    def interrupt(count: int, number: int, *, inside: bool) -> int:
        """Sends a signal after so many records; inside a cell to its program too."""
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 400
        while len(list(results.glob("*.json"))) < count or (inside and not in_progress()):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        holder = claim.holder(in_progress()[0] / "train") if inside else None
        os.kill(process.pid, number)
        if holder is not None and number == signal.SIGKILL:
            os.kill(holder.pid, number)
        return process.wait(200)

    assert interrupt(1, signal.SIGKILL, inside=False) == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in results.glob("*.json")}
    assert interrupt(2, signal.SIGKILL, inside=True) == -signal.SIGKILL
    assert interrupt(3, signal.SIGTERM, inside=True) == 75
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(results.glob("*.json"))) == 4
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for path in workdir.glob("*/train/metrics.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        steps = [line["step"] for line in lines if "train/loss" in line]
        assert steps == list(range(1, 301))
    text = (output / "toy.md").read_text()
    assert "| fast | 2 |" in text
    assert "Not run" not in text
    starts = sum(log.read_text().count("$ ") for log in workdir.glob("*/train.log"))
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert again.returncode == 0
    assert sum(log.read_text().count("$ ") for log in workdir.glob("*/train.log")) == starts
    assert (output / "toy.md").read_text() == text
