"""The suite `gpu`: rehearsed at toy size on a CPU, and what it does with its time and its file."""

import json
import subprocess
import sys
from pathlib import Path

import programs
import pytest

from data_pipeline.runtime.errors import UserError
from experiments.configs import gpst_1b, gpst_190m
from gpst_jax.benchmarks import gpu_suite, jax_steps, suite, workload
from gpst_jax.benchmarks.suite import Measurement
from gpst_jax.objectives import GPSTObjective
from gpst_jax.parallel import sharding

ROOT = Path(__file__).resolve().parents[2]
TOY = workload.small("toy")
PARTS = gpu_suite.plan({"gpst_190m": TOY, "gpst_1b": TOY}, gpu_suite.CASES)


def test_the_rehearsal_measures_and_writes_the_page(tmp_path):
    page, stored = tmp_path / "page.md", tmp_path / "cpu.json"
    page.write_text(f"# Page\n\n{gpu_suite.HEADING}\nOld.\n\n## Next\n\nKept.\n")
    flags = ["--suite=gpu", "--size=toy", "--rows=1", "--frames=3", "--steps=2", "--minutes=60"]
    flags += ["--cases=ours,attention_cudnn", f"--json_out={stored}", f"--page={page}"]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.benchmark", *flags],
        cwd=tmp_path,
        env=programs.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(stored.read_text())
    parts = document["parts"]
    assert len(parts) == 3
    train, generate = parts["train/toy/1/ours"], parts["generate/toy/1/ours"]
    assert train["error"] is None
    assert train["steps"] == 2
    assert train["frames_per_s"] == pytest.approx(TOY.frames / train["step_s"])
    assert generate["error"] is None
    assert (generate["rows"], generate["frames"], generate["calls"]) == (1, 3, 3)
    # A CPU has no cuDNN: what fails is recorded and shown.
    assert parts["attention/toy/1/attention_cudnn"]["error"]
    assert "`attention_cudnn`: " in done.stdout
    text = page.read_text()
    assert text.startswith(f"# Page\n\n{gpu_suite.HEADING}")
    assert text.endswith("\n\n## Next\n\nKept.\n")
    assert "Old." not in text
    assert document["card"]["name"] in text


def test_without_a_card_the_file_must_be_named(monkeypatch):
    found = {"name": "NVIDIA H200", "driver": "580.1", "memory_mib": "1"}
    monkeypatch.setattr(gpu_suite, "card", lambda: found)
    assert gpu_suite.default_path() == Path("docs/gpu/nvidia-h200.json")
    monkeypatch.setattr(gpu_suite, "card", lambda: found | {"driver": None})
    with pytest.raises(UserError, match="--json_out"):
        gpu_suite.default_path()


def test_attention_by_xla_is_that_of_float32():
    step = jax_steps.Attention(TOY.with_model(dtype="float32"), "xla")
    step()
    assert step.difference < 1e-5
    rounded = jax_steps.Attention(TOY.with_model(dtype="bfloat16"), "xla")
    assert 1e-4 < rounded.difference < 3e-2
    # 2 rows of 52 positions and width 128: one layer as the objective counts it.
    assert step.flops == 6 * 2 * 52**2 * 128


def test_the_configurations_of_pods_fit_one_device():
    for module, rows in ((gpst_190m, 32), (gpst_1b, 8)):
        config = module.get_config()
        work = workload.from_config(config, module.get_layout(), rows, remat=config.model.remat)
        assert sharding.mesh_shape(work.config.mesh, 1) == (1, 1, 1)
        assert work.config.model.remat == config.model.remat
        assert GPSTObjective(work.config, work.layout).batch_spec()["tokens"].shape[0] == rows


def test_what_is_asked_first_is_measured_first():
    names = [part.name for part in PARTS]
    assert len(set(names)) == len(names)
    assert names[:6] == [
        "card/gpst_190m/2/matmul",
        "card/gpst_190m/2/copy",
        *(f"train/gpst_190m/32/{case}" for case in ("ours", "torch_compile")),
        *(f"train/gpst_1b/8/{case}" for case in ("ours", "torch_compile")),
    ]
    for rows in gpu_suite.GENERATE_ROWS:
        for case in ("ours", "csm_compile"):
            assert f"generate/gpst_190m/{rows}/{case}" in names
    for size, tried in gpu_suite.ROWS.items():
        for case in ("ours", "torch_compile"):
            assert {f"train/{size}/{rows}/{case}" for rows in tried} <= set(names)
        for case in ("attention_xla", "attention_cudnn"):
            assert f"attention/{size}/{tried[0]}/{case}" in names
    # Further batch sizes are a luxury.
    assert names.index("attention/gpst_1b/8/attention_cudnn") < names.index(
        "train/gpst_190m/64/ours"
    )


class Clock:
    """Time that passes only where a case is measured."""

    def __init__(self, monkeypatch, seconds=40.0, failing=()):
        self.now, self.seconds, self.failing = 0.0, seconds, failing
        self.measured: list[str] = []
        monkeypatch.setattr(gpu_suite.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(suite, "measure_alone", self.measure)

    def measure(self, case, work, repeats, *, suite, seconds):
        self.measured.append(f"{case} {work.rows}")
        self.now += min(self.seconds, seconds)
        if self.seconds > seconds:
            return Measurement(case, work.rows, error="not done"), True
        if (case, work.rows) in self.failing:
            return Measurement(case, work.rows, error="out of memory"), False
        info = {"flops": 2e12, "peak_flops": 1e13, "device": "card", "moved": 3e9}
        info |= {"parameters": 7, "rest_frames": 9, "difference": 1e-3}
        times = [0.5] * repeats
        return Measurement(case, work.rows, info, times, times, 5, None, times, times), False


def test_a_cut_keeps_what_was_measured_and_goes_on(monkeypatch):
    clock = Clock(monkeypatch)
    document, written = gpu_suite.new_document(), []
    gpu_suite.run(PARTS, document, lambda made: written.append(len(made["parts"])), 100, _ignore)
    # 40 s each: two parts whole, and the third is killed after the 20 s that were left.
    assert written == [1, 2, 3]
    left = gpu_suite.missing(PARTS, document)
    assert left == [part.name for part in PARTS[2:]]
    clock.measured.clear()
    gpu_suite.run(PARTS, document, lambda made: None, 1e6, _ignore)
    assert len(clock.measured) == len(left)
    assert gpu_suite.missing(PARTS, document) == []
    assert list(document["parts"]) == [part.name for part in PARTS]


def test_more_rows_are_not_tried_where_fewer_failed(monkeypatch):
    clock = Clock(monkeypatch, failing={("torch_compile", 32)})
    document = gpu_suite.new_document()
    gpu_suite.run(PARTS, document, lambda made: None, 1e6, _ignore)
    parts = document["parts"]
    assert "32 rows failed" in parts["train/gpst_190m/64/torch_compile"]["error"]
    assert "torch_compile 64" not in clock.measured
    assert "torch_compile 16" in clock.measured
    assert parts["train/gpst_190m/64/ours"]["error"] is None


def test_tables_follow_the_numbers(monkeypatch):
    Clock(monkeypatch, failing={("csm_compile", 32)})
    document = gpu_suite.new_document() | {"date": "2026-01-02"}
    document["card"] = {"name": "Some GPU", "driver": "580.1", "memory_mib": "1"}
    gpu_suite.run(PARTS, document, lambda made: None, 1e6, _ignore)
    text = gpu_suite.section([document])
    assert "### Some GPU, 2026-01-02" in text
    assert "driver 580.1" in text
    # 0.5 s for 2e12 FLOPs: 4 TFLOP/s of 10; of three batch sizes the largest is the fastest.
    assert "| `gpst_190m` | `ours` | 64 |" in text
    assert "| 0.5000 | 3,840 |  | 4.0 | 40.0% |" in text
    assert "| `gpst_1b` | `torch_compile` | 16 |  | 0.5000 | 960 | 1.00x | 4.0 | 40.0% |" in text
    assert "| `gpst_1b` | 8 | cudnn | 500.000 | 4.0 | 1.0e-03 |" in text
    assert "memory 6 GB/s" in text
    assert "generate gpst_190m, 32 rows, `csm_compile`: out of memory" in text


def test_results_of_another_card_are_not_mixed(tmp_path):
    document = gpu_suite.new_document()
    gpu_suite.check_same_machine(document, tmp_path)
    document["card"] = {"name": "Another GPU", "driver": "1", "memory_mib": "1"}
    with pytest.raises(UserError, match="name another file"):
        gpu_suite.check_same_machine(document, tmp_path)


def test_the_page_is_that_of_the_committed_results():
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    files = sorted((ROOT / "docs" / "gpu").glob("*.json"))
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    assert page == gpu_suite.with_section(page, documents)


def test_a_page_without_the_section_is_refused():
    with pytest.raises(UserError, match="Results: GPU"):
        gpu_suite.with_section("# Page\n", [])


def _ignore(count: int) -> None:
    del count
