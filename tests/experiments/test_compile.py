"""`experiments.compile`: `--suggest`, with a compiler that is made up, and `--budget`."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
from program_lines import outcomes, refused

from data_pipeline.runtime.errors import UserError
from experiments import compile as compile_program
from experiments.common import load_objective
from experiments.configs import coig_lm_demo, gpst_1b, gpst_190m, gpst_demo
from gpst_jax.compilation import aot
from gpst_jax.config import ConfigError, RunConfig

CHIPS = 16
ROOT = Path(__file__).resolve().parents[2]


class FakeCompiler:
    """Memory grows with the rows, most without remat; ceilings rise with rows, less with remat."""

    def __init__(self, fixed: int, capacity: int = 1000):
        self.bytes_per_row = {"none": 300, "dots": 100, "full": 30}
        self.work = {"none": 1.0, "dots": 1.1, "full": 1.4}
        self.fixed, self.capacity = fixed, capacity
        self.tried: list[tuple[str, int]] = []

    def __call__(self, config: RunConfig) -> tuple[aot.Report, str]:
        remat = config.model.remat
        rows = config.data.batch_size // (CHIPS * config.train.grad_accum_steps)
        self.tried.append((remat, rows))
        total = self.fixed + rows * self.bytes_per_row[remat]
        fits = total <= self.capacity
        # A part of the step does not shrink with the batch; where nothing fits nothing is known.
        ceiling = rows / (rows * self.work[remat] + 1) if fits else math.nan
        report = aot.Report(
            topology="t",
            num_slices=1,
            chips=CHIPS,
            mesh={},
            parameters=1,
            fits=fits,
            overrun_bytes=max(total - self.capacity, 0),
            hbm_bytes_per_chip=aot.Memory(0, 0, 0, total, self.capacity),
            flops_per_step={},
            memory_traffic_bytes=0.0,
            traffic_by_cause={},
            collectives=(),
            roofline_s={},
            roofline_step_s=1.0,
            bound="compute",
            mfu_ceiling=ceiling,
        )
        return report, f"{remat} {rows}"


def run(accumulate: int = 1) -> RunConfig:
    config = gpst_demo.get_config()
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, batch_size=4),
        train=dataclasses.replace(config.train, grad_accum_steps=accumulate),
    )


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_highest_ceiling_that_fits_is_found(accumulate):
    compiler = FakeCompiler(fixed=100)
    config, report, text = compile_program.suggest(run(accumulate), CHIPS, compiler)
    # none: 2 rows, 2/3; dots: 8 rows, 8/9.8; full: 16 rows, 16/23.4.
    assert (config.model.remat, config.data.batch_size) == ("dots", 8 * CHIPS * accumulate)
    assert text == "dots 8"
    assert report.mfu_ceiling == pytest.approx(8 / 9.8)
    # Doubled until it does not fit, for every policy, and never beyond.
    tried = [("none", 1), ("none", 2), ("none", 4)]
    tried += [("dots", 1 << n) for n in range(5)] + [("full", 1 << n) for n in range(6)]
    assert compiler.tried == tried
    assert compile_program.settings(config) == [
        f"--config.data.batch_size={8 * CHIPS * accumulate}",
        "--config.model.remat=dots",
    ]


def test_the_search_ends_where_more_rows_do_not_help():
    compiler = FakeCompiler(fixed=0, capacity=10**9)
    config, _, _ = compile_program.suggest(run(), CHIPS, compiler)
    assert config.model.remat == "none"
    assert max(rows for _, rows in compiler.tried) == 128  # 64 to 128 rows: 0.8 %
    assert config.data.batch_size == 128 * CHIPS


def test_nothing_that_fits_is_an_error():
    with pytest.raises(ConfigError, match=r"data\.batch_size.*mesh\.tensor"):
        compile_program.suggest(run(), CHIPS, FakeCompiler(fixed=5000))


def test_family_without_data_needs_a_description():
    config = coig_lm_demo.get_config()
    with pytest.raises(UserError, match=r"get_objective\(config\)"):
        load_objective("experiments/configs/coig_lm_demo.py", config)


def test_a_budget_is_spent_on_the_configuration_as_it_is():
    name = "experiments.configs.gpst_190m"
    found = compile_program.candidate(name, gpst_190m.get_config())
    compiled = json.loads((ROOT / "docs/pods/gpst_190m-1xv5e-4x4.json").read_text())
    assert found.parameters == compiled["parameters"]
    assert found.flops_per_step == compiled["flops_per_step"]["formula"]
    # Units at 50 Hz and 8 codes of each frame at 75 Hz.
    assert found.tokens_per_second == 50 + 75 * 8
    assert found.rows_of(compiled["chips"]) == found.compiled["v5e"].rows
    assert found.compiled["v5e"].ceiling == compiled["mfu_ceiling"]
    assert "12 layers of width 512" in found.shape
    # By hand, in the matrices of both transformers alone: 6 per weight and position.
    wide, narrow = 9 * (4 * 1024**2 + 2 * 1024 * 4096), 12 * (4 * 512**2 + 2 * 512 * 2048)
    matrices = 6 * 64 * (1280 * wide + 768 * 8 * narrow)
    assert matrices == pytest.approx(found.flops_per_step, rel=0.2)
    assert matrices < found.flops_per_step
    large = compile_program.candidate("experiments.configs.gpst_1b", gpst_1b.get_config())
    assert large.rows_of(64) == 1  # in each of four micro-batches
    assert large.rows_of(24) is None
    # Of the same configuration with other fields there are compiled programs as well.
    assert large.compiled["v6e"].name == "gpst_1b-1xv6e-8x8"


def test_a_budget_names_size_pod_and_time(tmp_path):
    line = f"--budget=5000 --assume=chip=v5p,hours=200000 --json_out={tmp_path}/plan.json"
    ((code, printed, error),) = outcomes("experiments.compile", [line], tmp_path)
    assert (code, error) == (0, "")
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["config"] in printed
    assert plan["pod"] in printed
    assert plan["chip_hours"] == pytest.approx(5000)
    assert plan["wall_hours"] * plan["chips"] == pytest.approx(5000)
    assert plan["epochs"] == pytest.approx(plan["hours"] / 200000)


def test_a_bad_budget_is_one_line(tmp_path):
    cases = {
        "--budget=lots": "--budget=lots: give a positive number of chip-hours",
        "--budget=5 --assume=chip=v9": "--assume=chip=v9: choose from v4",
        "--budget=5 --suggest": "--suggest: --budget compiles nothing",
        "--budget=5 --topology=v5p:4x4x5": "--topology=v5p:4x4x5: v5p has no such slice",
        "--budget=5 --topology=v5p:4x4x4 --assume=chip=v5p": "--topology names the chip",
        "--budget=5 --config.data.batch_size=8": "--config: give it",
        "--budget=1e9": "the nearest configuration, gpst_7b",
        "--assume=chip=v5p": "--assume: its inputs are those of --budget",
        "--topology=v5p:4x4x4": "--config: required",
    }
    refused("experiments.compile", cases, tmp_path)
