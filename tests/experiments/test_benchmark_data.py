"""The data suite at toy size: every number is there, and the arithmetic of the demand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gpst_jax.benchmarks import data_suite

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_every_number_is_there(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "experiments.benchmark", "--suite=data", "--scale=0.0005"),
            f"--json_out={tmp_path / 'result.json'}",
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    wanted = result["demand"]
    # One step of 64 rows is 1.57e14 FLOPs; docs/pods.md has the same figure from the compiler.
    assert 64 * wanted["flops_per_row"] == pytest.approx(1.57e14, rel=0.01)
    assert wanted["rows_per_s"] == pytest.approx(8 * 197e12 * 0.4 / wanted["flops_per_row"])
    assert {case["workers"] for case in result["loading"]} >= {0, 1}
    for case in result["loading"]:
        assert case["of_demand"] == pytest.approx(case["rows_per_s"] / wanted["rows_per_s"])
    assert all(rate > 0 for rate in result["tokenising"]["stages"].values())
    assert result["reading"]["records"] == 500
    assert len(result["reading"]["rss_bytes"]) == 10
    assert result["planning"]["records"] == 10_000
    for line in data_suite.lines(result):
        assert line in done.stdout
