"""What a budget buys, against closed forms and examples worked by hand."""

import dataclasses
import json
import math

import pytest

from gpst_jax.compilation import budget
from gpst_jax.compilation.budget_inputs import CHIP_HOURS, FLOPS, Inputs, Law, assume, parse
from gpst_jax.config import ConfigError
from gpst_jax.parallel import topologies

# A thousand rows of 10 s at 650 tokens a second: 6.5e6 tokens and 1e16 FLOPs a step.
SMALL = budget.Candidate(
    name="small",
    parameters=200_000_000,
    shape="one layer",
    flops_per_step=1e16,
    batch_size=1024,
    accumulated=1,
    tensor=1,
    shard=16,
    seconds_per_row=10.0,
    tokens_per_second=650.0,
    compiled={"v5p": budget.Compiled("small-1xv5p-4x4x4", 0.9, 16)},
)
LARGE = dataclasses.replace(
    SMALL, name="large", parameters=1_600_000_000, flops_per_step=1e17, compiled={}
)


def test_the_law_is_a_power_of_compute():
    law = Law()
    assert law.optimal_parameters(3e20) == 1.7e9
    assert law.optimal_tokens(3e20) == 30e9
    # Ten times the compute: 10^0.367 = 2.328 and 10^0.579 = 3.793 times as much.
    assert law.optimal_parameters(3e21) / 1.7e9 == pytest.approx(2.3281, rel=1e-4)
    assert law.optimal_tokens(3e21) / 30e9 == pytest.approx(3.7931, rel=1e-4)
    for exponent, of in ((0.367, law.optimal_parameters), (0.579, law.optimal_tokens)):
        slope = math.log(of(1e23) / of(1e18)) / math.log(1e5)
        assert slope == pytest.approx(exponent)
    # The hierarchical model of the law's authors: 1.11e9 parameters for 1.17e20 FLOPs.
    assert 1.11e9 / law.optimal_parameters(1.17e20) == pytest.approx(0.92, abs=0.005)


def test_flops_are_spent_to_the_last_step():
    # 3e19 FLOPs are 3,000 steps of 1e16: 3,000 x 1,024 rows x 10 s = 8,533.3 h, x 650 tokens.
    plan = budget.plan((3e19, FLOPS), [SMALL], Inputs())
    assert plan.steps == 3000
    assert plan.hours == pytest.approx(8533.333)
    assert plan.tokens == pytest.approx(3000 * 1024 * 10 * 650)
    assert plan.optimal_parameters == pytest.approx(1.7e9 * 0.1**0.367)
    assert plan.optimal_hours == pytest.approx(30e9 * 0.1**0.579 / 100 / 3600)
    assert not plan.extrapolated
    assert budget.plan((3e21, FLOPS), [SMALL], Inputs()).extrapolated


def test_chip_hours_and_flops_are_two_names_of_one_budget():
    # 100 h x 3,600 s x 459e12 FLOP/s x 0.4 x 0.5 = 3.3048e19.
    inputs = Inputs(mfu=0.4, goodput=0.5)
    by_hours = budget.plan((100.0, CHIP_HOURS), [SMALL], inputs)
    assert by_hours.flops == pytest.approx(3.3048e19)
    by_flops = budget.plan((by_hours.flops, FLOPS), [SMALL], inputs)
    assert by_flops.chip_hours == pytest.approx(100)
    assert by_flops.steps == by_hours.steps == 3304
    assert by_hours.wall_hours * by_hours.chips == pytest.approx(100)


def test_a_chip_that_shows_as_two_devices_counts_both():
    inputs = Inputs(chip="tpu7x", mfu=0.5, goodput=1.0)
    plan = budget.plan((1.0, CHIP_HOURS), [LARGE], inputs)
    assert plan.flops == pytest.approx(3600 * 2307e12 * 0.5)
    # 16 devices at least, which are 8 chips.
    assert (plan.pod, plan.chips, plan.rows_per_device) == ("tpu7x:2x2x2", 8, 64)


def test_the_nearest_size_on_a_logarithmic_scale_is_named():
    # Half way between 2e8 and 1.6e9 is 5.66e8, 0.333 of N_0: the law gives it for 0.333^(1/0.367).
    middle = 3e20 * (math.sqrt(2e8 * 1.6e9) / 1.7e9) ** (1 / 0.367)
    for factor, name in ((0.99, "small"), (1.01, "large")):
        assert budget.plan((middle * factor, FLOPS), [SMALL, LARGE], Inputs()).config == name


def test_a_size_far_from_every_configuration_is_refused():
    for flops in (1e15, 1e24):
        with pytest.raises(ConfigError, match=r"nearest configuration.*--config"):
            budget.plan((flops, FLOPS), [SMALL, LARGE], Inputs())
    assert budget.plan((1e24, FLOPS), [SMALL], Inputs()).config == "small"  # it was asked for


def test_the_mfu_is_given_or_below_the_ceiling():
    assert budget.mfu_of(SMALL, Inputs()) == 0.4
    low = dataclasses.replace(SMALL, compiled={"v5p": budget.Compiled("low", 0.3, 4)})
    assert budget.mfu_of(low, Inputs()) == pytest.approx(0.24)
    assert budget.mfu_of(low, Inputs(chip="v6e")) == 0.4
    assert budget.mfu_of(low, Inputs(mfu=0.55)) == 0.55


@pytest.mark.parametrize(
    ("chip_hours", "days", "pod"),
    [
        # The compiled step has 16 rows: 1,024 rows need 64 chips, for 1,000 h 15.6 h of time.
        (1000.0, 14.0, ("v5p:4x4x4", 64)),
        (1000.0, 0.5, ("v5p:4x4x8", 128)),
        (1000.0, 0.3, ("v5p:4x8x8", 256)),
        (1000.0, 1e-6, ("v5p:8x8x16", 1024)),  # a row each; more chips would have none
    ],
)
def test_the_smallest_slice_in_time_is_taken(chip_hours, days, pod):
    assert budget.slice_for(SMALL, Inputs(days=days), chip_hours) == pod


def test_a_gpu_comes_in_powers_of_two():
    assert budget.slice_for(LARGE, Inputs(chip="H100"), 1.0) == ("16 x H100", 16)


def test_slices_are_those_that_exist_and_compact():
    for generation in topologies.GENERATIONS:
        found = topologies.slices(generation)
        assert [count for _, count in found] == sorted({count for _, count in found})
        for name, count in found:
            assert topologies.refusal(name) is None
            assert math.prod(map(int, name.partition(":")[2].split("x"))) == count
    assert ("v5p:8x8x16", 1024) in topologies.slices("v5p")
    assert topologies.slices("v6e")[-1] == ("v6e:16x16", 256)


def test_chips_that_do_not_divide_the_batch_are_refused():
    odd = dataclasses.replace(LARGE, batch_size=1000)
    with pytest.raises(ConfigError, match=r"1000 rows.*mesh\.fsdp 16"):
        budget.plan((3e20, FLOPS), [odd], Inputs())
    with pytest.raises(ConfigError, match="--topology=v5p:2x2x1"):
        budget.plan((3e20, FLOPS), [SMALL], Inputs(), ("v5p:2x2x1", 4))


def test_epochs_are_counted_and_too_many_warned_of():
    few = budget.plan((3e19, FLOPS), [SMALL], Inputs(hours=8533.3333333))
    assert few.epochs == pytest.approx(1.0)
    many = budget.plan((3e19, FLOPS), [SMALL], Inputs(hours=2000.0))
    assert many.epochs == pytest.approx(4.2667, rel=1e-4)
    assert not any("epochs" in warning for warning in budget.warnings(few))
    assert any("more than 4 epochs" in warning for warning in budget.warnings(many))
    assert any(
        "--assume=hours" in w
        for w in budget.warnings(budget.plan((3e19, FLOPS), [SMALL], Inputs()))
    )


def test_more_rows_than_were_compiled_are_warned_of():
    plan = budget.plan((3e19, FLOPS), [SMALL], Inputs(), ("v5p:2x2x4", 16))
    assert plan.rows_per_device == 64
    assert any("train.grad_accum_steps" in warning for warning in budget.warnings(plan))
    plan = budget.plan((3e19, FLOPS), [SMALL], Inputs(chip="v6e"))
    assert any("no such step was compiled" in warning for warning in budget.warnings(plan))


def test_every_input_is_shown_and_stored():
    plan = budget.plan((3e19, FLOPS), [SMALL], Inputs(hours=1e4))
    shown = next(line for line in budget.lines(plan) if line.startswith("assumed"))
    for field in dataclasses.fields(Inputs):
        assert f"{field.name}=" in shown
    stored = json.loads(json.dumps(dataclasses.asdict(plan)))
    assert stored["inputs"]["mfu"] == 0.4
    assert stored["inputs"]["tokens_per_second"] == 650.0
    again = assume(shown.split(maxsplit=1)[1].split(", "))
    assert again == plan.inputs


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("5000", (5000.0, CHIP_HOURS)),
        ("5,000 chip-hours", (5000.0, CHIP_HOURS)),
        ("2e21flops", (2e21, FLOPS)),
        ("1.5e+20 FLOPs", (1.5e20, FLOPS)),
    ],
)
def test_budgets_are_hours_or_flops(text, found):
    assert parse(text) == found


@pytest.mark.parametrize("text", ["", "many", "-5", "0", "nan", "inf", "1e999", "5 days", "3e20e"])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(ConfigError, match=r"--budget=.*2e21flops"):
        parse(text)


@pytest.mark.parametrize(
    ("assignment", "named"),
    [
        ("chip=v9", "choose from v4, v5e"),
        ("chips=v5p", "choose from chip, days"),
        ("mfu=fast", "positive number"),
        ("mfu=40", "fraction"),
        ("hours=-1", "positive number"),
        ("goodput", "positive number"),
    ],
)
def test_bad_inputs_are_named(assignment, named):
    with pytest.raises(ConfigError, match=rf"--assume=.*{named}"):
        assume([assignment])
