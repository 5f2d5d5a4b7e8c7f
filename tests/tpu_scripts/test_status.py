"""How a run stands, read from a workdir whose every number is known."""

import json
import subprocess
import sys

import pytest

from gpst_jax.training import status as run_status


def write_lines(workdir, lines):
    workdir.mkdir(exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (workdir / "metrics.jsonl").write_text(text)


def line(step, time, loss, step_s):
    return {
        "step": step,
        "time": time,
        "train/loss": loss,
        "train/learning_rate": 1e-3,
        "train/skipped_steps": 2.0,
        "perf/step_s": step_s,
        "perf/mfu": 0.41,
        "perf/goodput": 0.9,
    }


@pytest.fixture
def workdir(tmp_path):
    """Two starts: 10 steps of 2 s, a stop of 60 s, 10 steps of 2 s."""
    workdir = tmp_path / "a run"
    lines = [line(10, 1000.0, 3.0, 2.0), line(20, 1080.0, 2.5, 2.0)]
    lines += [
        {"step": 20, "time": 1081.0, "eval/loss": 9.0},
        {"step": 21, "time": 1081.5, "skip/batch": 3},
    ]
    write_lines(workdir, lines)
    (workdir / "tensorboard").mkdir()
    for start in (1, 2):
        (workdir / "tensorboard" / f"events.out.tfevents.{start}.host").write_text("")
    return workdir


def test_what_is_read(workdir):
    status = run_status.read_status(workdir, now=1100.0)
    assert (status.step, status.loss, status.restarts) == (20, 2.5, 1)
    assert (status.mfu, status.goodput, status.skipped_steps) == (0.41, 0.9, 2)
    assert status.age_s == pytest.approx(20.0)
    # 20 s of steps in the 80 s between the lines.
    assert status.goodput_all == pytest.approx(0.25)
    assert (status.checkpoint_step, status.steps) == (None, None)
    text = run_status.format_status(status)
    assert "step 20, 20s ago" in text
    assert "25.0% since the first line" in text
    assert "none yet" in text


def test_before_the_first_step(tmp_path):
    status = run_status.read_status(tmp_path, now=0.0)
    assert status.step is None
    assert status.restarts == 0
    assert "no step has ended yet" in run_status.format_status(status)


def test_a_damaged_metrics_file_is_named(workdir):
    (workdir / "metrics.jsonl").write_text("{\n" + json.dumps(line(1, 0.0, 1.0, 1.0)) + "\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 1"):
        run_status.read_status(workdir)


@pytest.mark.slow
@pytest.mark.timeout(800)
def test_the_program_reads_a_real_run(tmp_path, dataset, config, start):
    workdir = tmp_path / "run"
    arguments = (f"--config={config}", f"--config.data.path={dataset}", f"--workdir={workdir}")
    for steps in (4, 6):
        program = start("experiments.pretrain", *arguments, f"--config.train.steps={steps}")
        assert program.wait(250) == 0, program.text()
    before = sorted(path for path in workdir.rglob("*"))
    out = tmp_path / "status.json"
    program = start("experiments.status", f"--workdir={workdir}", f"--json_out={out}")
    assert program.wait(250) == 0, program.text()
    assert sorted(path for path in workdir.rglob("*")) == before  # it only reads
    status = json.loads(out.read_text())
    assert (status["step"], status["steps"], status["checkpoint_step"]) == (6, 6, 6)
    assert status["restarts"] == 1
    assert status["checkpoint_age_s"] < 300
    assert "step 6 of 6" in program.text()


def test_no_such_directory_is_one_line(tmp_path):
    command = [sys.executable, "-m", "experiments.status", f"--workdir={tmp_path / 'none'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: --workdir=")
