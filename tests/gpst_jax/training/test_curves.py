"""Expected curves: what is stored, and which runs are off."""

import json
import math
import subprocess
import sys
from pathlib import Path

import programs
import pytest

from data_pipeline.runtime.errors import UserError
from gpst_jax.training import curves

ROOT = Path(__file__).resolve().parents[3]
CURVES = ROOT / "docs" / "curves"


def lines(factor=1.0, last=100):
    found = []
    for step in range(10, last + 1, 10):
        losses = {"train/loss": 30 / step, "train/nll_semantic": 20 / step}
        losses |= {"train/nll_acoustic_q0": 10 / step}
        found.append(
            {"step": step, "time": 0.0, "perf/step_s": 1.0, "train/learning_rate": 1e-3}
            | {name: factor * value for name, value in losses.items()}
        )
    return [*found, {"step": last, "time": 0.0, "eval/loss": factor, "eval/nll": None}]


def test_a_run_is_on_its_own_curve_and_others_near_it():
    curve = json.loads(json.dumps(curves.make_curve(lines(), [20, 100], 0.05, {})))
    assert curve["steps"]["100"] == {
        "eval/loss": 1.0,
        "train/loss": 0.3,
        "train/nll_acoustic_q0": 0.1,
        "train/nll_semantic": 0.2,
    }
    for factor in (1.0, 1.04, 0.96):
        found = curves.compare(curve, lines(factor))
        assert (found.compared, found.last_step, found.deviations) == (7, 100, [])
    assert curves.format_agreement(found) == ["on it: 7 losses within 5% up to step 100"]


def test_bits_per_second_belong_to_a_curve_and_older_curves_lack_them():
    older = curves.make_curve(lines(), [20, 100], 0.05, {})
    run = [{**line, "train/bits_per_second": 900.0, "train/z_loss": 0.1} for line in lines()]
    assert curves.compare(older, run).deviations == []
    curve = curves.make_curve(run, [20], 0.05, {})
    assert set(curve["steps"]["20"]) - set(older["steps"]["20"]) == {"train/bits_per_second"}
    run[1]["train/bits_per_second"] = 1000.0
    found = curves.compare(curve, run).deviations
    assert [(one.step, one.name) for one in found] == [(20, "train/bits_per_second")]


def test_what_is_off_is_named():
    curve = curves.make_curve(lines(), [20, 100], 0.05, {})
    run = lines()
    run[1]["train/nll_semantic"] *= 1.2
    del run[9]["train/loss"]
    found = curves.compare(curve, run)
    assert [(one.step, one.name) for one in found.deviations] == [
        (20, "train/nll_semantic"),
        (100, "train/loss"),
    ]
    assert curves.format_agreement(found)[1:] == [
        "train/nll_semantic at step 20 is 1.2000, expected 1.0000",
        "train/loss at step 100 is missing, expected 0.3000",
    ]


def test_a_run_in_progress_is_compared_as_far_as_it_has_come():
    curve = curves.make_curve(lines(), [20, 100], 0.05, {})
    assert curves.compare(curve, lines(last=50)).last_step == 20
    assert curves.compare(curve, lines(last=10)).last_step is None
    assert curves.compare(curve, lines()[:-1]).deviations == []  # the evaluation comes last
    nothing = curves.format_agreement(curves.compare(curve, []))
    assert nothing == ["no step of it is reached yet"]


def test_a_curve_says_how_many_bits_a_second_of_audio_has():
    """A bit is ln 2 nats; tokens per second times bits per token."""
    nat = math.log(2)
    losses = {"nll_semantic": 2 * nat, "nll_acoustic": 3 * nat}
    run = [{"step": 5} | {f"train/{name}": value for name, value in losses.items()}]
    record = {
        "family": "GPSTObjective",
        "config": {"data": {"deduplicate": False}},
        "dataset": {
            "semantic": {"frame_rate": 50.0},
            "codec": {"frame_rate": 75.0, "num_codebooks": 4},
        },
    }
    rates = curves.prediction_rates(record)
    assert rates == {"semantic": 50.0, "acoustic": 300.0}
    curve = curves.make_curve(run, [5], 0.05, rates)
    assert curve["steps"]["5"] == {
        "train/nll_acoustic": round(3 * nat, 4),
        "train/nll_semantic": round(2 * nat, 4),
        "train/bits_per_second_acoustic": 900.0,
        "train/bits_per_second_semantic": 100.0,
    }
    agreement = curves.compare(curve, run)
    assert (agreement.compared, agreement.deviations) == (2, [])
    record["config"]["data"]["deduplicate"] = True  # units come as they come
    assert curves.prediction_rates(record) == {"acoustic": 300.0}
    assert curves.prediction_rates(record | {"family": "FlowMatchingObjective"}) == {}
    assert curves.prediction_rates({}) == {}


@pytest.mark.parametrize("path", sorted(CURVES.glob("*.json")), ids=lambda path: path.stem)
def test_a_stored_curve_can_be_read_and_belongs_to_a_configuration(path):
    curve = curves.read_curve(path)
    assert len(curve["steps"]) >= 5
    named = [
        config.name
        for config in (ROOT / "experiments" / "configs").glob("*.py")
        if f"docs/curves/{path.name}" in config.read_text(encoding="utf-8")
    ]
    page = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8")
    assert named or f"`{path.name}`" in page
    for losses in curve["steps"].values():
        for split in {name.split("/")[0] for name in losses if "acoustic" in name}:
            bits = [losses[f"{split}/bits_per_second_{name}"] for name in ("semantic", "acoustic")]
            assert 0 < bits[0] < bits[1]


def test_steps_are_chosen_evenly_or_by_name():
    steps = list(curves.make_curve(lines(), [], 0.05, {})["steps"])
    assert steps[-1] == "100"
    assert 6 <= len(steps) <= 8
    with pytest.raises(UserError, match="no losses at step 24: the nearest logged one is 20"):
        curves.make_curve(lines(), [24], 0.05, {})
    with pytest.raises(UserError, match="train it first"):
        curves.make_curve([], [], 0.05, {})


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "curve.json"
    with pytest.raises(UserError, match="No such file"):
        curves.read_curve(path)
    for text in ("{", "[]", '{"tolerance": 0.05, "steps": {"a": {}}}', '{"steps": {}}'):
        path.write_text(text)
        with pytest.raises(UserError, match="not an expected curve"):
            curves.read_curve(path)
    path.write_text(json.dumps(curves.make_curve(lines(), [20], 0.1, {})))
    assert curves.read_curve(path)["tolerance"] == 0.1


PROGRAM = """
import json, sys
from absl import flags
from data_pipeline.runtime import cli
from experiments import status

codes = []
for words in json.load(sys.stdin):
    flags.FLAGS.unparse_flags()
    sys.argv[1:] = words
    try:
        cli.run(status.main)
    except SystemExit as end:
        codes.append(end.code)
print(codes)
"""


def test_the_program_writes_a_curve_and_compares_runs_with_it(tmp_path):
    for name, factor in {"good": 1.0, "near": 1.02, "off": 1.2}.items():
        (tmp_path / name).mkdir()
        text = "".join(json.dumps(line) + "\n" for line in lines(factor))
        (tmp_path / name / "metrics.jsonl").write_text(text)
    curve, out = tmp_path / "curve.json", tmp_path / "out.json"
    calls = [
        [f"--workdir={tmp_path / 'good'}", f"--write_curve={curve}", "--curve_steps=50,100"],
        [f"--workdir={tmp_path / 'near'}", f"--expect={curve}"],
        [f"--workdir={tmp_path / 'off'}", f"--expect={curve}", f"--json_out={out}"],
        [f"--workdir={tmp_path / 'off'}", "--curve_steps=50"],
        [f"--workdir={tmp_path / 'off'}", f"--write_curve={curve}", "--curve_steps=last"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(calls), cwd=tmp_path,
        env=programs.environment(), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[0, 0, 3, 2, 2]", done.stderr
    assert "expected curve   on it: 7 losses within 5% up to step 100" in done.stdout
    assert "expected curve   off it: 7 of 7 losses" in done.stdout
    assert "train/loss at step 50 is 0.7200, expected 0.6000" in done.stdout
    assert "--curve_steps: is given with --write_curve only" in done.stderr
    assert len(json.loads(out.read_text())["expected"]["deviations"]) == 7
