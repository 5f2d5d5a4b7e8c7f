"""The search of `experiments.compile --suggest`, with a compiler that is made up."""

import dataclasses
import math

import pytest

from data_pipeline.runtime.errors import UserError
from experiments import compile as compile_program
from experiments.common import load_objective
from experiments.configs import coig_lm_demo, gpst_demo
from gpst_jax.compilation import aot
from gpst_jax.config import ConfigError, RunConfig

CHIPS = 16


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
