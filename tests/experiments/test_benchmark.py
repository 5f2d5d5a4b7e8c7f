"""The benchmark at toy size: every case, its result file, and the peers' inputs.

Cases run in processes of their own, as for users; compiling torch is left out for its time.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipeline.tokens import EOS, NUM_SPECIALS
from gpst_jax.benchmarks import csm, flattened, suite, workload
from gpst_jax.benchmarks.suite import Measurement
from gpst_jax.config import ConfigError
from gpst_jax.objectives import GPSTObjective

ROOT = Path(__file__).resolve().parents[2]
TOY = workload.small("toy")


def _run(tmp_path, *arguments, **environment):
    variables = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    # Little time goes into making good code here; one device, unlike the other tests.
    variables["XLA_FLAGS"] = (
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    )
    return subprocess.run(
        [sys.executable, "-m", "experiments.benchmark", *arguments],
        cwd=tmp_path,
        env=variables | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    for package in ("torch", "transformers"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("benchmark")
    done = _run(
        folder,
        *("--size=toy", "--steps=2", "--turn=1", "--skip=torch_compile,ours_remat_dots"),
        f"--json_out={folder}/result.json",
    )
    assert done.returncode == 0, done.stderr
    assert "ours" in done.stdout
    return json.loads((folder / "result.json").read_text())


def test_every_case_is_there_with_its_numbers(result):
    names = [case["name"] for case in result["cases"]]
    left_out = ("matmul", "torch_compile", "ours_remat_dots")
    assert names == [case for case in suite.CASES if case not in left_out]
    for case in result["cases"]:
        assert case["error"] is None
        assert case["steps"] == 2
        assert case["step_s_min"] <= case["step_s"] <= case["step_s_max"]
        assert case["frames_per_s"] == pytest.approx(2 * 30 / case["step_s"])
        assert case["peak_memory_bytes"] > 50e6
        assert case["flops_per_s"] == pytest.approx(case["flops"] / case["step_s"])
        assert case["of_matmul_rate"] > 0
    speeds = {case["name"]: case["frames_per_s"] for case in result["cases"]}
    assert set(result["ratios"]) == set(speeds) - {"ours"}
    for name, ratio in result["ratios"].items():
        assert ratio == pytest.approx(speeds["ours"] / speeds[name])
    assert result["machine"]["matmul_flops_per_s"] > 0
    assert {"jax", "torch", "transformers", "python"} <= set(result["versions"])


def test_models_are_equally_large_and_variants_compute_the_same(result):
    cases = {case["name"]: case for case in result["cases"]}
    ours = cases["ours"]
    for peer in ("torch_eager", "flattened"):
        assert cases[peer]["parameters"] == pytest.approx(ours["parameters"], rel=0.05)
    assert cases["ours_remat_full"]["loss"] == pytest.approx(ours["loss"], rel=1e-5)
    # An untrained model guesses: each stream costs about the log of its number of classes.
    assert ours["loss"] == pytest.approx(np.log(54) + np.log(36), rel=0.2)
    assert cases["torch_eager"]["loss"] == pytest.approx(2 * np.log(36), rel=0.2)


def test_compiled_flops_follow_the_formula(result):
    counts = result["flops"]
    for name in ("hierarchical", "flattened", "flattened_global_layers"):
        assert counts[name]["compiled"] == pytest.approx(counts[name]["formula"], rel=0.1)
    for saving in counts["saving"].values():
        assert saving["compiled"] == pytest.approx(saving["formula"], rel=0.1)
        assert saving["compiled"] > 1.5


def test_unknown_cases_and_sizes_are_one_line(tmp_path):
    for flag, named in (("--cases=ours,theirs", "theirs"), ("--size=gpst_2m", "gpst_2m")):
        done = _run(tmp_path, flag)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert named in done.stderr


def test_a_case_that_cannot_run_is_recorded():
    worker = suite.Worker("no_such_case", TOY)
    worker.await_start()
    worker.close()
    assert not worker.alive
    assert "no_such_case" in (worker.measurement.error or "")


def test_a_workload_survives_the_way_to_another_process():
    changed = dataclasses.replace(TOY.with_rows(3).with_model(remat="dots"), threads=1)
    assert workload.Workload.from_json(changed.to_json()) == changed


def test_the_batch_holds_every_frame_of_the_workload():
    batch = TOY.batch()
    objective = GPSTObjective(TOY.config, TOY.layout)
    spec = objective.batch_spec()
    assert {name: leaf.shape for name, leaf in spec.items()} == {
        name: value.shape for name, value in batch.items()
    }
    weights = objective.weights(batch)
    assert weights["semantic"] == TOY.rows * (TOY.units + 1)
    assert weights["acoustic"] == TOY.rows * (TOY.frames + 1) * TOY.layout.num_codebooks
    assert TOY.frames_per_step == TOY.rows * TOY.frames


def test_rows_that_are_too_short_are_refused():
    with pytest.raises(ConfigError, match="sequence_length"):
        dataclasses.replace(TOY, frames=TOY.frames + 1)


def test_peers_see_the_same_tokens():
    ours, units = TOY.batch(), TOY.units
    real = ours["frames"][:, : TOY.frames]
    codes = TOY.layout.ids_to_classes(real)
    theirs = csm.inputs(TOY)
    np.testing.assert_array_equal(theirs["codes"][:, :-1], codes)
    assert (theirs["codes"][:, -1] == EOS).all()
    np.testing.assert_array_equal(theirs["text"][:, 1:-1], ours["tokens"][:, 1 : units + 1, 0])
    assert (theirs["labels"][:, : units + 2] == -100).all()
    np.testing.assert_array_equal(theirs["labels"][:, units + 2 :], theirs["codes"])
    assert theirs["labels"].shape[1] == csm.length_of(TOY)
    assert theirs["codes"].max() < NUM_SPECIALS + TOY.layout.codebook_size

    flat = flattened.FlattenedObjective(TOY, TOY.config.model.global_net).batch()
    shift = TOY.layout.semantic_vocab
    np.testing.assert_array_equal(
        flat["tokens"][:, units + 2 :], real.reshape(TOY.rows, -1) + shift
    )
    np.testing.assert_array_equal(flat["acoustic_targets"], codes)
    np.testing.assert_array_equal(
        flat["semantic_targets"], ours["semantic_targets"][:, : units + 1]
    )
    assert flat["tokens"].shape[1] == flattened.flat_length(TOY)


def test_an_indifferent_flattened_model_guesses():
    """With all parameters zero each stream costs exactly the log of its number of classes."""
    objective = flattened.FlattenedObjective(TOY, flattened.flat_net(TOY, 200_000))
    params = jax.eval_shape(objective.init, jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), params)
    batch = objective.batch()
    loss, _ = objective.loss(zeros, batch, jax.random.key(0), objective.weights(batch), train=False)
    layout = TOY.layout
    guess = np.log(layout.semantic_vocab) + np.log(layout.acoustic_classes)
    assert loss == pytest.approx(guess, rel=1e-5)


def test_of_several_numbers_of_rows_the_fastest_counts():
    def measured(rows, seconds, error=None):
        return Measurement("ours", rows, {"flops": 1.0}, seconds, seconds, 7, error)

    tried = [measured(2, [1.0, 1.0]), measured(4, [1.5, 1.5, 9.0]), measured(8, [], "OOM")]
    (case,) = suite.summarise(tried, lambda rows: 10 * rows)
    assert case["rows"] == 4
    assert case["frames_per_s"] == pytest.approx(40 / 1.5)
    assert [entry["error"] for entry in case["sweep"]] == [None, None, "OOM"]


def test_a_peer_that_failed_has_no_ratio():
    cases = [
        {"name": "ours", "frames_per_s": 6.0},
        {"name": "torch_eager", "frames_per_s": 2.0},
        {"name": "torch_compile", "frames_per_s": None},
    ]
    assert suite.ratios(cases) == {"torch_eager": 3.0, "torch_compile": None}
