"""Sweeps: their runs and names, and that a sweep killed anywhere repeats nothing that is done."""

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
from small_run import CONFIG
from toy_run import toy_config

from data_pipeline.runtime import claim
from data_pipeline.runtime.errors import UserError
from gpst_jax.config import ConfigError
from gpst_jax.training import sweeps
from gpst_jax.training.sweeps import Row

GRID = ["optimizer.learning_rate=1e-3,3e-3", "data.seed=0,1,2"]


def make(*grid, **sections):
    return sweeps.make_runs(toy_config(**sections), sweeps.parse_grid(grid))


def test_every_combination_is_a_run_with_a_name_of_what_differs():
    runs = make(*GRID)
    assert [run.fields for run in runs[:2]] == [
        {"optimizer.learning_rate": 1e-3},
        {"optimizer.learning_rate": 1e-3, "data.seed": 1},
    ]
    assert len({run.name for run in runs}) == 6
    assert runs[1].name.startswith("seed=1_learning_rate=0.001_")
    assert runs[1].config.data.seed == 1
    assert runs[1].config.name == f"toy-{runs[1].name[-8:]}"
    assert len({run.config.name for run in runs}) == 6
    # The toy's own learning rate is 1e-2: nothing differs.
    assert make("optimizer.learning_rate=0.01")[0].name.startswith("base_")
    assert [run.name[:5] for run in make()] == ["base_"]


def test_a_larger_grid_keeps_the_names_of_a_smaller_one():
    small = {run.name for run in make("optimizer.learning_rate=1e-3,0.003")}
    assert small < {run.name for run in make(*GRID)}


def test_a_name_fits_for_a_folder():
    (run,) = make("data.path=/a [b]/*?/tokens of all kinds")
    assert set(run.name) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.=+-"
    )
    assert len(run.name) < 80


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (["optimizer.learning_rate"], "give section.field=VALUE,VALUE"),
        (["data.seed=1,,2"], "give section.field=VALUE,VALUE"),
        (["data.seed=1", "data.seed=2"], "data.seed is given twice"),
        (["optimizer.learning_rate=1e-3,0.001"], "optimizer.learning_rate=0.001 is in it twice"),
        (["name=a,b"], "names its runs itself"),
    ],
)
def test_impossible_grids_are_refused(grid, message):
    with pytest.raises(UserError, match=message):
        make(*grid)


def test_fields_and_values_are_those_of_a_configuration():
    with pytest.raises(ConfigError, match=r"data\.sead"):
        make("data.sead=1")
    with pytest.raises(ConfigError, match=r"data\.seed: expected int"):
        make("data.seed=one")


def test_another_base_is_refused_by_its_field():
    stored = json.loads(toy_config().to_json())
    sweeps.check_base(stored, toy_config(), "w")
    with pytest.raises(UserError, match=r"--workdir=w: .* train\.steps is 6, here it is 9"):
        sweeps.check_base(stored, toy_config(train={"steps": 9}), "w")


def test_the_best_run_comes_first_and_failed_ones_last():
    rows = [
        Row("a", {}, sweeps.FAILED, None, None, "exit code 4: diverged", "w/a"),
        Row("b", {}, sweeps.FINISHED, 2.0, 6, "", "w/b"),
        Row("c", {}, sweeps.UNFINISHED, None, None, "", "w/c"),
        Row("d", {}, sweeps.FINISHED, None, 6, "", "w/d"),
        Row("e", {}, sweeps.FINISHED, 1.0, 6, "", "w/e"),
    ]
    names = [row.name for row in sweeps.sort_rows(rows, sweeps.LOWEST)]
    assert names == ["e", "b", "d", "c", "a"]
    assert [row.name for row in sweeps.sort_rows(rows, sweeps.HIGHEST)][:3] == ["b", "e", "d"]
    text = sweeps.format_table(sweeps.sort_rows(rows, sweeps.LOWEST), "eval/loss")
    lines = [line.split() for line in text.splitlines()]
    assert lines[1] == ["1", "1.0000", "e"]
    assert lines[-1] == ["a", "failed:", "exit", "code", "4:", "diverged"]


# Calls the program several times in one process; a function stands for pretrain.
DRIVER = """
import contextlib, io, json, sys
from pathlib import Path
from absl import flags
from data_pipeline.runtime import cli
from experiments import sweep

started = []

def run(command, output):
    words = dict(word.split("=", 1) for word in command[3:])
    rate = float(words["--config.optimizer.learning_rate"])
    started.append(rate)
    output.write(b"$ python\\nerror: training diverged: on purpose\\nmore\\n")
    path = Path(words["--json_out"])
    path.parent.mkdir(parents=True, exist_ok=True)
    if rate == 1.0:
        return 4, False
    done = {"steps": 40, "interrupted": False, "final": {"eval/loss": 1 / rate}}
    path.write_text(json.dumps(done | ({"steps": 3, "interrupted": True} if rate == 2 else {})))
    return (75, False) if rate == 2 else (0, False)

sweep._run = run
found = []
for words in json.load(sys.stdin):
    flags.FLAGS.unparse_flags()
    sys.argv[1:] = words
    started.clear()
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            cli.run(sweep.main)
        except SystemExit as end:
            found.append([end.code, list(started), out.getvalue(), error.getvalue()])
print(json.dumps(found))
"""


def test_the_program_adds_repeats_refuses_and_prints(config, environment, tmp_path):
    common = [f"--config={config}", f"--workdir={tmp_path / 'w'}", "--config.data.path=tokens"]
    rate = "--grid=optimizer.learning_rate="
    calls = [
        [*common, f"{rate}0.1,1.0,0.2"],
        [*common, f"{rate}0.1,0.2,0.3,1.0"],
        [*common, f"{rate}0.3,0.2", "--config.train.steps=41"],
        [*common, f"{rate}0.5,0.1", "--launch=print", "--env=runs/a.env"],
        [*common, f"{rate}2.0,0.7"],
        [*common, f"{rate}0.3", "--metric=eval/nothing"],
        [*common, f"{rate}0.3", "--config.optimizer.learning_rate=1"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], input=json.dumps(calls), cwd=tmp_path,
        env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second, base, printed, interrupted, metric, twice = json.loads(
        done.stdout.splitlines()[-1]
    )
    assert first[:2] == [3, [0.1, 1.0, 0.2]], first
    assert "failed: exit code 4: training diverged: on purpose" in first[2]
    assert second[:2] == [3, [0.3]], second  # the diverged one would diverge again
    assert base[:2] == [2, []]
    assert "config field train.steps is 40, here it is 41" in base[3]
    commands = [line for line in printed[2].splitlines() if not line.startswith("#")]
    assert printed[:2] == [0, []]
    assert len(commands) == 1  # the other has finished
    assert commands[0].startswith("tpu_scripts/up.sh --env=runs/a.env --name=tiny-")
    assert " --data=tokens -- --json_out=" in commands[0]
    assert "data.path" not in commands[0]  # up.sh hands on what --data says: once is enough
    assert "--config.optimizer.learning_rate=0.5" in commands[0]
    assert interrupted[:2] == [75, [2.0]], interrupted
    assert metric[0] == 2
    assert "no finished run has it; they have eval/loss" in metric[3]
    assert twice[0] == 2
    assert "--config.optimizer.learning_rate: is varied by --grid" in twice[3]
    table = json.loads((tmp_path / "w" / "table.json").read_text())
    assert table["metric"] == "eval/nothing"
    assert len(table["runs"]) == 7


def count_results(workdir: Path) -> int:
    return len(list(workdir.glob("*/result.json")))


def starts(workdir: Path) -> dict[str, int]:
    """How often each run was started, by its log."""
    logs = workdir.glob("*.log")
    return {log.stem: len(re.findall(r"^\$ ", log.read_text(), re.MULTILINE)) for log in logs}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_six_runs_killed_thrice_end_with_six_results_none_repeated(dataset, tmp_path):
    config = tmp_path / "tiny.py"
    config.write_text(CONFIG)
    workdir = tmp_path / "sweep"
    command = [
        *(sys.executable, "-m", "experiments.sweep", f"--config={config}"),
        *(f"--workdir={workdir}", f"--config.data.path={dataset}"),
        *("--config.train.steps=300", "--config.train.checkpoint_every_steps=20"),
        *(f"--grid={text}" for text in GRID),
    ]
    environment = programs.environment()

    def unfinished() -> list[Path]:
        runs = [path.parent for path in workdir.glob("*/metrics.jsonl")]
        return [run for run in runs if not (run / "result.json").exists()]

    def interrupt(results: int, number: int, *, its_run: bool = False) -> int:
        """Sends a signal to the sweep, and to its run too, in the run after so many results."""
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 400
        while count_results(workdir) < results or not unfinished():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        holder = claim.holder(unfinished()[0]) if its_run else None
        os.kill(process.pid, number)
        if holder is not None:
            os.kill(holder.pid, number)
        return process.wait(200)

    assert interrupt(1, signal.SIGKILL) == -signal.SIGKILL  # its run trains on
    before = {path: path.stat().st_mtime_ns for path in workdir.glob("*/result.json")}
    assert interrupt(3, signal.SIGKILL, its_run=True) == -signal.SIGKILL
    assert interrupt(4, signal.SIGTERM) == 75
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    table = json.loads((workdir / "table.json").read_text())
    assert [run["status"] for run in table["runs"]] == ["finished"] * 6
    values = [run["value"] for run in table["runs"]]
    assert values == sorted(values)
    assert done.stdout.splitlines()[-6].split()[:2] == ["1", f"{values[0]:.4f}"]
    # Started again only where a signal reached the run itself.
    assert sum(starts(workdir).values()) <= 8
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for path in workdir.glob("*/metrics.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        steps = [line["step"] for line in lines if "train/loss" in line]
        assert steps == list(range(1, 301))
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert again.returncode == 0
    assert sum(starts(workdir).values()) <= 8
