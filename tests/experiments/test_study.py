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
    assert defaults["JAX_COMPILATION_CACHE_DIR"].endswith("/shared/programs")  # of all cells
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


# A resumable program that needs no JAX: a line for every step, and a result after the last.
STEPS = """
import json, signal, sys, time
from pathlib import Path
folder, count = Path(sys.argv[1]), 60
log = folder / "steps.txt"
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
done = len(log.read_text().split()) if log.exists() else 0
for step in range(done, count):
    with log.open("a") as file:
        file.write(f"{step}\\n")
    time.sleep(0.03)
(folder / "work.json").write_text(json.dumps({"steps": count}))
"""
STEPS_STUDY = """
from gpst_jax.studies.definition import Call, Cell, Study
from gpst_jax.studies.figures import JsonFigure

def get_study():
    shared = Call("both", "toy_steps", ("{shared}",))
    cells = tuple(
        Cell(name, calls=(Call("work", "toy_steps", ("{cell}",)),), prepare=(shared,))
        for name in ("a", "b")
    )
    figure = JsonFigure("n", "n", "work.json", ("steps",))
    return Study("toy", "Does it end?", cells, (figure,), (0, 1))
"""


class Killed:
    """Starts a study again and again, and sends signals to it or to what it runs."""

    def __init__(self, command: list[str], environment: dict, workdir: Path, results: Path):
        self.command, self.environment = command, environment
        self.workdir, self.results = workdir, results

    def begun(self, progress: str) -> list[Path]:
        """Cells without a record of which a file of progress is there."""
        cells = [path.relative_to(self.workdir).parts[0] for path in self.workdir.glob(progress)]
        return [self.workdir / c for c in cells if not (self.results / f"{c}.json").exists()]

    def interrupt(self, records: int, number: int, progress: str, program: str) -> int:
        """Sends a signal in the cell after so many records.

        Args:
            records: how many there are by then.
            number: of the signal.
            progress: pattern of files that tell that a cell is in progress.
            program: SIGKILL reaches the program whose command line has it, too; empty: none.
        """
        process = subprocess.Popen(self.command, env=self.environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 400
        while len(list(self.results.glob("*.json"))) < records or not self.begun(progress):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(process.pid, number)
        for child in children:
            if program and program in Path(f"/proc/{child}/cmdline").read_text():
                os.kill(int(child), number)
        return process.wait(200)

    def finish(self) -> str:
        """Runs it to the end; returns what it prints."""
        done = subprocess.run(
            self.command, env=self.environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.mark.timeout(900)
def test_a_study_killed_between_and_inside_cells_repeats_no_step(environment, tmp_path):
    (tmp_path / "toy_steps.py").write_text(STEPS)
    (tmp_path / "toy.py").write_text(STEPS_STUDY)
    output, workdir = tmp_path / "docs", tmp_path / "w"
    killed = Killed(
        [
            *(sys.executable, "-m", "experiments.study", f"--study={tmp_path / 'toy.py'}"),
            *(f"--output={output}", f"--workdir={workdir}"),
        ],
        environment | {"PYTHONPATH": f"{programs.ROOT}{os.pathsep}{tmp_path}"},
        workdir,
        output / "results" / "toy",
    )
    steps = "?-?/steps.txt"
    assert killed.interrupt(1, signal.SIGKILL, steps, "") == -signal.SIGKILL  # its program goes on
    before = {path: path.stat().st_mtime_ns for path in killed.results.glob("*.json")}
    assert killed.interrupt(2, signal.SIGKILL, steps, "toy_steps") == -signal.SIGKILL
    assert killed.interrupt(3, signal.SIGTERM, steps, "") == 75
    killed.finish()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    files = sorted(workdir.glob("*/steps.txt"))
    assert [path.parent.name for path in files] == ["a-0", "a-1", "b-0", "b-1", "shared"]
    for path in files:
        assert path.read_text().split() == [str(step) for step in range(60)]
    assert "4 of 4 cells and seeds are recorded" in killed.finish()
    assert len((workdir / "shared" / "both.log").read_text().splitlines()) == 1  # run once


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_training_killed_inside_cells_repeats_no_step(study, dataset, tmp_path):
    output, workdir = tmp_path / "docs", tmp_path / "w"
    killed = Killed(
        [
            *(sys.executable, "-m", "experiments.study", f"--study={study}"),
            *(f"--tokens={dataset}", f"--output={output}", f"--workdir={workdir}"),
        ],
        programs.environment(),
        workdir,
        output / "results" / "toy",
    )
    metrics = "*/train/metrics.jsonl"
    assert killed.interrupt(1, signal.SIGKILL, metrics, "pretrain") == -signal.SIGKILL
    assert killed.interrupt(3, signal.SIGTERM, metrics, "") == 75
    killed.finish()
    assert len(list(killed.results.glob("*.json"))) == 4
    for path in workdir.glob(metrics):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        steps = [line["step"] for line in lines if "train/loss" in line]
        assert steps == list(range(1, 301))
    text = (output / "toy.md").read_text()
    assert "| fast | 2 |" in text
    assert "Not run" not in text
    assert "4 of 4 cells and seeds are recorded" in killed.finish()
    assert (output / "toy.md").read_text() == text
