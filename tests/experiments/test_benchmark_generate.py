"""The suite `generate` at toy size: its result file and its arithmetic; torch is not compiled."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from gpst_jax.benchmarks import csm, generate_suite, musicgen, traffic, workload
from gpst_jax.benchmarks.suite import Measurement
from gpst_jax.config import GPSTConfig
from gpst_jax.objectives import GPSTObjective

ROOT = Path(__file__).resolve().parents[2]
TOY = workload.small("toy")
FLAGS = ("--suite=generate", "--size=toy", "--threads=2", "--rows=2", "--frames=3", "--steps=2")


def _run(folder, *arguments):
    variables = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    # Little time goes into making good code here.
    variables["XLA_FLAGS"] = (
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    )
    return subprocess.run(
        [sys.executable, "-m", "experiments.benchmark", *arguments],
        cwd=folder,
        env=variables | {"PYTHONPATH": str(ROOT)},
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
        folder, *FLAGS, "--cases=copy,ours,csm_eager,musicgen_eager", f"--json_out={folder}/r.json"
    )
    assert done.returncode == 0, done.stderr
    assert "musicgen_eager" in done.stdout
    return json.loads((folder / "r.json").read_text())


def test_every_case_is_there_with_its_numbers(result):
    cases = {case["name"]: case for case in result["cases"]}
    assert list(cases) == ["ours", "csm_eager", "musicgen_eager"]
    threads = min(2, len(os.sched_getaffinity(0)))
    bandwidth = result["bandwidth"][str(threads)]
    assert 1e8 < bandwidth < 1e12
    for case in cases.values():
        assert case["error"] is None
        assert (case["rows"], case["threads"], case["frames"], case["calls"]) == (2, threads, 3, 2)
        assert case["frames_per_s_min"] <= case["frames_per_s"] <= case["frames_per_s_max"]
        assert case["real_time_factor"] == pytest.approx(
            2 * TOY.layout.frame_rate / case["frames_per_s"]
        )
        assert case["first_audio_s"] > 0
        assert case["whole_frames_per_s"] == pytest.approx(2 * 3 / case["call_s"])
        assert case["peak_memory_bytes"] > 50e6
        assert case["limit_frames_per_s"] == pytest.approx(bandwidth / case["bytes_per_frame"])
        assert case["of_limit"] == pytest.approx(case["frames_per_s"] / case["limit_frames_per_s"])
    speed = cases["ours"]["frames_per_s"]
    assert result["ratios"] == result["ratios_by_threads"][str(threads)]
    assert set(result["ratios"]) == {"csm_eager", "musicgen_eager"}
    for peer, by_batch in result["ratios"].items():
        assert by_batch == {"2": pytest.approx(speed / cases[peer]["frames_per_s"])}


def test_models_are_about_equally_large(result):
    ours, eager, _ = result["cases"]
    assert eager["parameters"] == pytest.approx(ours["parameters"], rel=0.05)
    # Both decode frame by frame with a local model: they read the same, but for CSM's projector.
    assert eager["bytes_per_frame"] == pytest.approx(ours["bytes_per_frame"], rel=0.1)


@pytest.mark.parametrize("size", ["toy", "cpu"])
def test_musicgen_has_as_many_weights_in_its_layers(size):
    work = workload.small(size)
    wide, narrow = csm.dimensions(work)
    ours = sum(n.layers * (4 * n.hidden**2 + 3 * n.hidden * n.inner) for n in (wide, narrow))
    layers, inner = musicgen.layers_of(work)
    per_layer = 8 * wide.hidden**2 + 2 * wide.hidden * inner
    assert per_layer * layers == pytest.approx(ours, rel=0.01)


@pytest.mark.parametrize("size", ["toy", "cpu"])
def test_bytes_of_a_frame_follow_the_counted_parameters(size):
    work = workload.small(size)
    objective = GPSTObjective(work.config, work.layout)
    params = jax.eval_shape(objective.init, jax.random.key(0))
    counted = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf.size
        for path, leaf in jax.tree.leaves_with_path(params)
    }
    # Lookups and norms outside of the layers are the rest.
    once = ("global_net.layers.", "projector.", "acoustic_head.")
    weights = sum(size for name, size in counted.items() if name.startswith(once))
    local = sum(size for name, size in counted.items() if name.startswith("local_net.layers."))
    model = work.config.model_as(GPSTConfig)
    depth, net, narrow = work.layout.num_codebooks, model.global_net, model.local_net
    found = traffic.of_params(params, depth, 4)
    assert found.weights == weights + depth * local
    assert found.cache_per_position == 2 * net.num_layers * net.d_model
    per_frame = found.bytes_per_frame(rows=8, positions=10)
    assert per_frame == 4 * (found.weights / 8 + 10 * found.cache_per_position)
    # By hand, in matrices alone.
    matrices = net.num_layers * (4 * net.d_model**2 + 3 * net.d_model * net.d_ff)
    matrices += (
        depth * narrow.num_layers * (4 * narrow.d_model**2 + 3 * narrow.d_model * narrow.d_ff)
    )
    matrices += net.d_model * narrow.d_model
    matrices += depth * narrow.d_model * work.layout.acoustic_classes
    assert found.weights == pytest.approx(matrices, rel=0.02)


def test_a_head_of_all_codebooks_is_read_for_each():
    def shaped(*shape):
        return np.zeros(shape)

    layers = {"attn": {"k": {"kernel": shaped(2, 6, 6)}}}
    params = {"global_net": {"layers": layers}, "local_net": {"layers": layers}}
    one = traffic.of_params(params | {"acoustic_head": {"kernel": shaped(6, 9)}}, 4, 2)
    each = traffic.of_params(params | {"acoustic_head": {"kernel": shaped(4, 6, 9)}}, 4, 2)
    assert one.weights == each.weights == 72 + 4 * 72 + 4 * 54
    assert one.cache_per_position == 2 * 2 * 6


def test_a_copy_moves_every_value():
    copy = traffic.HostCopy(threads=3, megabytes=1)
    copy()
    assert copy.moved == 2 * 2**20
    for target, source in copy._parts:
        np.testing.assert_array_equal(target, source)
    assert sum(target.nbytes for target, _ in copy._parts) == 2**20


def test_speed_is_of_the_frames_after_the_first():
    info = {
        "parameters": 7,
        "rest_frames": 9,
        "traffic": {"weights": 100, "cache_per_position": 2, "itemsize": 4},
    }
    measured = Measurement(
        "ours", 2, info, [3.0, 4.0, 6.0], [1.0] * 3, 9, None, [1.0] * 3, [2.0, 3.0, 4.0]
    )
    work = dataclasses.replace(TOY.with_rows(2), frames=10, threads=1)
    case = generate_suite.summary(measured, work, bandwidth=1e6)
    assert case["frames_per_s"] == pytest.approx(2 * 9 / 3)
    assert case["frames_per_s_min"] == pytest.approx(2 * 9 / 4)
    assert case["frames_per_s_max"] == pytest.approx(2 * 9 / 2)
    assert case["whole_frames_per_s"] == pytest.approx(2 * 10 / 4)
    assert case["first_audio_s"] == 1.0
    assert case["bytes_per_frame"] == 4 * (100 / 2 + 2 * (TOY.units + 2 + 10 / 2))
    assert case["of_limit"] == pytest.approx(6 * case["bytes_per_frame"] / 1e6)


def test_ratios_are_by_peer_and_batch_of_one_number_of_threads():
    def case(name, rows, threads, speed):
        return {"name": name, "rows": rows, "threads": threads, "frames_per_s": speed}

    cases = [
        *(case("ours", 1, 2, 6.0), case("ours", 8, 2, 20.0), case("ours", 1, 1, 5.0)),
        *(case("csm_eager", 1, 2, 2.0), case("csm_eager", 8, 2, None)),
        case("csm_eager", 1, 1, 1.0),
    ]
    assert generate_suite.ratios(cases, 2) == {"csm_eager": {"1": 3.0, "8": None}}
    assert generate_suite.ratios(cases, 1) == {"csm_eager": {"1": 5.0}}


def test_larger_batches_decode_fewer_frames():
    work = workload.small("cpu")
    assert [generate_suite.frames_of(work, rows) for rows in (1, 8, 32)] == [32, 16, 8]
    assert generate_suite.frames_of(dataclasses.replace(TOY, frames=20), 1) == 20


def test_an_unknown_case_is_one_line(tmp_path):
    done = _run(tmp_path, *FLAGS, "--cases=ours,torch_eager")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "torch_eager" in done.stderr
    assert "csm_compile" in done.stderr
