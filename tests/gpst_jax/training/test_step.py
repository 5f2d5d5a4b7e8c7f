"""The train step over a tiny objective: meshes, micro-batches, skipped steps, averages."""

import itertools

import jax
import numpy as np
import pytest
from toy_run import (
    ToyLoader,
    ToyObjective,
    assert_trees_close,
    assert_trees_equal,
    compile_once,  # noqa: F401
    toy_config,
)

from gpst_jax.config import ConfigError, MeshConfig
from gpst_jax.parallel import sharding
from gpst_jax.training import step as train_step

pytestmark = pytest.mark.usefixtures("compile_once")


def run_steps(objective, config, count=1, devices=None, loader=None):
    """Returns the state (on the host) and the reports of `count` steps from the start."""
    mesh = sharding.make_mesh(config.mesh, devices or jax.devices()[:1])
    loader = loader or ToyLoader(objective.rows)
    reports = []
    with jax.set_mesh(mesh):
        state = train_step.init_state(objective, config, mesh)
        step = train_step.make_train_step(objective, config, mesh)
        for batch in itertools.islice(loader, count):
            batch = jax.device_put(batch, sharding.batch_sharding(mesh))
            state, report = step(state, batch)
            reports.append(jax.device_get(report))
    return state, reports


@pytest.fixture(scope="module")
def one_device():
    return run_steps(ToyObjective(), toy_config(), 2)


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2), (1, 2, 4)])
def test_meshes_give_the_update_of_one_device(sizes, one_device):
    run = run_steps(ToyObjective(), toy_config(mesh=MeshConfig(*sizes)), 2, jax.devices())
    assert_same_updates(run, one_device)


def test_muon_on_a_mesh_gives_the_update_of_one_device():
    muon = {"name": "muon"}
    one = run_steps(ToyObjective(), toy_config(optimizer=muon))
    config = toy_config(mesh=MeshConfig(1, 2, 4), optimizer=muon)
    assert_same_updates(run_steps(ToyObjective(), config, devices=jax.devices()), one)


def assert_same_updates(run, reference):
    for report, expected in zip(run[1], reference[1], strict=True):
        for name in ("loss", "gradient_norm"):
            assert report.pairs[name][0] == pytest.approx(expected.pairs[name][0], rel=1e-4), name
    assert_trees_close(run[0].params, reference[0].params, atol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_is_sharded_like_its_parameters(name):
    config = toy_config(
        mesh=MeshConfig(1, 4, 2), optimizer={"name": name}, train={"ema_decay": 0.9}
    )
    mesh = sharding.make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        state = train_step.init_state(ToyObjective(), config, mesh)
    kernel = state.params["global"]["layers"]["mlp"]["up"]["kernel"]
    assert kernel.sharding.spec == jax.P(None, ("fsdp",), ("tensor",))
    known = {
        sharding.path_string(path): leaf for path, leaf in jax.tree.leaves_with_path(state.params)
    }
    found = 0
    for path, leaf in jax.tree.leaves_with_path((state.opt_state, state.ema)):
        for parameter in (p for n, p in known.items() if sharding.path_string(path).endswith(n)):
            assert leaf.sharding.is_equivalent_to(parameter.sharding, leaf.ndim), path
            assert leaf.shape == parameter.shape
            found += 1
    # AdamW keeps two moments, Muon one for each of the two hidden kernels; the average is one more.
    moments = 2 * len(known) if name == "adamw" else 2 * len(known) - 2
    assert found == moments + len(known)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1, 2)])
def test_accumulation_equals_the_large_batch(sizes, one_device):
    devices = jax.devices()[: int(np.prod(sizes))]
    config = toy_config(mesh=MeshConfig(*sizes), train={"grad_accum_steps": 4})
    state, reports = run_steps(ToyObjective(), config, 2, devices)
    # The masks differ between micro-batches, so means of means would not pass.
    for report, reference in zip(reports, one_device[1], strict=True):
        for name, (total, count) in report.pairs.items():
            assert total == pytest.approx(reference.pairs[name][0], rel=1e-4), name
            assert count == reference.pairs[name][1], name
    assert_trees_close(state.params, one_device[0].params, atol=1e-5)


def test_frozen_parameters_stay_and_have_no_moments():
    objective = ToyObjective(frozen="embedding")
    config = toy_config(optimizer={"weight_decay": 0.5})
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    with jax.set_mesh(mesh):
        start = jax.device_get(train_step.init_state(objective, config, mesh).params)
    state, _ = run_steps(objective, config)
    assert_trees_equal(state.params["global"]["embed"], start["global"]["embed"])
    moved = state.params["semantic_head"]["kernel"] != start["semantic_head"]["kernel"]
    assert moved.all()
    paths = [sharding.path_string(path) for path, _ in jax.tree.leaves_with_path(state.opt_state)]
    assert not [path for path in paths if "embedding" in path]


def test_bad_step_changes_nothing_but_its_counters():
    loader = ToyLoader(gains={8: np.nan})  # the second batch
    config = toy_config(train={"ema_decay": 0.9})
    before, _ = run_steps(ToyObjective(), config, 1)
    after, reports = run_steps(ToyObjective(), config, 2, loader=loader)
    assert [bool(report.accepted) for report in reports] == [True, False]
    assert_trees_equal(before.params, after.params)
    assert_trees_equal(before.opt_state, after.opt_state)
    assert_trees_equal(before.ema, after.ema)
    guard = jax.device_get(after.guard)
    assert (int(after.step), int(guard.applied), int(guard.skipped), int(guard.in_row)) == (
        2,
        1,
        1,
        1,
    )


def test_average_follows_the_parameters():
    config = toy_config(train={"ema_decay": 0.9})
    first, _ = run_steps(ToyObjective(), config, 1)
    second, _ = run_steps(ToyObjective(), config, 2)
    decay = 2 / 11  # min(0.9, (1 + t) / (10 + t)) at t = 1
    expected = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, first.ema, second.params)
    assert_trees_close(second.ema, expected, rtol=1e-6)


def test_rows_that_do_not_divide_are_an_error():
    config = toy_config(mesh=MeshConfig(1, 8, 1), train={"grad_accum_steps": 2})
    mesh = sharding.make_mesh(config.mesh)
    with pytest.raises(
        ConfigError, match=r"8 rows .*grad_accum_steps=2.* 8 devices.*multiple of 16"
    ):
        train_step.make_train_step(ToyObjective(), config, mesh)


def test_step_lowers_for_devices_that_are_not_here():
    config = toy_config(rows=256, mesh=MeshConfig(2, 64, 2))
    mesh = jax.sharding.AbstractMesh(
        (2, 64, 2), sharding.MESH_AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3
    )
    objective = ToyObjective(rows=256)
    with jax.sharding.use_abstract_mesh(mesh):
        step = train_step.make_train_step(objective, config, mesh)
        state = train_step.abstract_state(objective, config, mesh)
        lowered = step.trace(state, objective.batch_spec()).lower(lowering_platforms=("tpu",))
    assert "num_partitions = 256" in lowered.as_text()
