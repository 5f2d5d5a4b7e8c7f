"""Schedules against direct formulas, what is decayed and clipped, Muon, and the guard."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpst_jax.compilation import hlo, hlo_cost
from gpst_jax.config import MeshConfig, OptimizerConfig
from gpst_jax.parallel import sharding
from gpst_jax.training import optimizer
from gpst_jax.training.optimizer import check_step, init_guard, make_optimizer, make_schedule


def inverse_sqrt(t):
    return 0.1 * (t + 1) / 10 if t < 10 else 0.1 * math.sqrt(10 / (t + 1))


def cosine(t):
    if t < 10:
        return 0.1 * (t + 1) / 10
    return 0.01 + 0.09 * 0.5 * (1 + math.cos(math.pi * (t - 10) / 90))


def wsd(t):
    if t < 10:
        return 0.1 * (t + 1) / 10
    return 0.1 if t < 80 else 0.1 - 0.09 * (t - 80) / 20


@pytest.mark.parametrize("formula", [inverse_sqrt, cosine, wsd])
def test_schedule_formula(formula):
    config = OptimizerConfig(
        learning_rate=0.1,
        schedule=formula.__name__,
        warmup_steps=10,
        decay_fraction=0.2,
        final_fraction=0.1,
    )
    steps = np.arange(101)
    rates = jax.vmap(make_schedule(config, 100))(steps)
    np.testing.assert_allclose(rates, [formula(t) for t in steps], rtol=1e-5)
    np.testing.assert_allclose(rates[9], 0.1, rtol=1e-6)


@pytest.mark.parametrize("name", ["inverse_sqrt", "cosine", "wsd"])
def test_schedule_without_warmup_begins_at_the_peak(name):
    config = OptimizerConfig(learning_rate=0.1, schedule=name, warmup_steps=0)
    assert float(make_schedule(config, 10)(0)) == pytest.approx(0.1)


def params():
    values = jax.random.normal(jax.random.key(0), (2, 6, 4))
    return {
        "global": {
            "embed": {"embedding": values[0]},
            "layers": {
                "attn_norm": {"scale": jnp.ones((2, 6)), "bias": jnp.ones((2, 6))},
                "attn": {"q": {"kernel": values, "bias": jnp.ones((2, 4))}},
            },
        },
        "projector": {"kernel": values[1]},
    }


def update(config, gradients, trainable=lambda path: True):
    tx = make_optimizer(config, 10, trainable)
    updates, _ = jax.jit(lambda p, g: tx.update(g, tx.init(p), p))(params(), gradients)
    return updates


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_only_kernels_decay(name):
    config = OptimizerConfig(
        name=name, learning_rate=0.1, muon_learning_rate=0.1, weight_decay=0.5, warmup_steps=0
    )
    updates = update(config, jax.tree.map(jnp.zeros_like, params()))
    flat = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(updates)}
    expected = {
        jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(params())
    }
    for path, leaf in flat.items():
        rate = -0.1 * 0.5 if path.endswith("['kernel']") else 0
        np.testing.assert_allclose(leaf, rate * expected[path], rtol=1e-6, err_msg=path)


def test_clip_bounds_the_gradient_of_trainable_parameters():
    # The first Adam step is blind to scale, so the moment shows what went in.
    gradients = jax.tree.map(lambda x: 5.0 * jnp.ones_like(x), params())
    config = OptimizerConfig(clip_norm=1.0, beta1=0.9)

    def moment(trainable):
        tx = make_optimizer(config, 10, trainable)
        _, state = tx.update(gradients, tx.init(params()), params())
        return optax.tree.get(state, "mu")

    assert float(optax.tree.norm(moment(lambda path: True))) == pytest.approx(0.1)
    assert float(optax.tree.norm(moment(lambda path: "projector" in path))) == pytest.approx(0.1)


def test_muon_orthogonalises_each_layer_and_leaves_the_rest_to_adam():
    config = OptimizerConfig(
        name="muon",
        learning_rate=0.001,
        muon_learning_rate=0.1,
        weight_decay=0.0,
        warmup_steps=0,
        clip_norm=1e9,
    )
    key = jax.random.key(1)
    gradients = jax.tree.map(lambda x: jax.random.normal(key, x.shape), params())
    updates = update(config, gradients)
    kernel = updates["global"]["layers"]["attn"]["q"]["kernel"]
    # Each layer's update is near the orthogonal factor of its own gradient: all singular values
    # alike, whatever those of the gradient.
    for layer in range(2):
        singular = np.linalg.svd(np.asarray(kernel[layer]), compute_uv=False) / 0.1
        assert singular.min() > 0.6
        assert singular.max() < 1.3
        u, _, v = np.linalg.svd(
            np.asarray(gradients["global"]["layers"]["attn"]["q"]["kernel"][layer]),
            full_matrices=False,
        )
        assert np.vdot(-kernel[layer] / 0.1, u @ v) / 4 > 0.6
    # AdamW's first step has the size of its learning rate everywhere.
    np.testing.assert_allclose(abs(updates["projector"]["kernel"]), 0.001, rtol=1e-3)
    np.testing.assert_allclose(abs(updates["global"]["embed"]["embedding"]), 0.001, rtol=1e-3)


def test_muon_is_that_of_optax():
    config = OptimizerConfig(
        name="muon", muon_learning_rate=0.1, weight_decay=0.1, warmup_steps=2, clip_norm=1e9
    )
    ours = make_optimizer(config, 10)
    theirs = optax.contrib.muon(
        make_schedule(config, 10, 0.1),
        weight_decay=0.1,
        muon_weight_dimension_numbers=optax.contrib.MuonDimensionNumbers(1, 2),
    )

    # Wide, tall and square matrices: the scale depends on the shape.
    shapes = {"wide": (3, 4, 8), "tall": (3, 8, 4), "square": (3, 4, 4)}

    def tree(key):
        draw = {name: {"kernel": jax.random.normal(key, shape)} for name, shape in shapes.items()}
        return {"layers": draw}

    @jax.jit
    def steps(params):
        states = ours.init(params), theirs.init(params)
        updates = []
        for key in jax.random.split(jax.random.key(0), 3):
            mine, first = ours.update(tree(key), states[0], params)
            expected, second = theirs.update(tree(key), states[1], params)
            states = first, second
            updates.append((mine, expected))
        return updates

    for mine, expected in steps(tree(jax.random.key(1))):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), mine, expected)


@pytest.mark.parametrize("sizes", [(2, 4, 1), (2, 2, 2)])
def test_muon_on_a_mesh_exchanges_matrices_twice_and_never_between_replicas(sizes):
    config = OptimizerConfig(name="muon", muon_learning_rate=0.1, clip_norm=1e9, warmup_steps=0)
    tx = make_optimizer(config, 10)
    # Eight layers divide over the four devices of a replica, three do not.
    shapes = {"q": (8, 32, 16), "k": (3, 16, 16)}
    keys = dict(zip(shapes, jax.random.split(jax.random.key(0)), strict=True))
    tree = {
        "layers": {
            "attn": {
                name: {"kernel": jax.random.normal(keys[name], shape)}
                for name, shape in shapes.items()
            }
        }
    }

    def apply(gradients, state, params):
        return tx.update(gradients, state, params)

    expected, _ = jax.jit(apply)(tree, tx.init(tree), tree)
    mesh = sharding.make_mesh(MeshConfig(*sizes))
    shardings = sharding.parameter_shardings(mesh, tree)
    shapes = jax.eval_shape(tx.init, tree)
    states = sharding.like_parameters(shapes, tree, shardings, mesh)
    with jax.set_mesh(mesh):
        compiled = (
            jax.jit(
                apply,
                in_shardings=(shardings, states, shardings),
                out_shardings=(shardings, states),
            )
            .lower(tree, shapes, tree)
            .compile()
        )
        state = jax.device_put(tx.init(tree), states)
        placed = jax.device_put(tree, shardings)
        updates, _ = compiled(placed, state, placed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), updates, expected)

    transfers = hlo_cost.transfers(hlo.parse(compiled.as_text()))
    for transfer in transfers:
        assert len({device // 4 for device in transfer.devices}) == 1, transfer
    # A device keeps a quarter of a kernel and exchanges at most all of that, for each axis that
    # cuts it, there and back; the three layers are filled up to four.
    part = 4 * (8 * 32 * 16 + 4 * 16 * 16) // 4
    exchanges = 2 * sum(size > 1 for size in sizes[1:])
    assert sum(transfer.bytes for transfer in transfers) < exchanges * part


def test_guard_refuses_spikes_once_it_knows_the_norm():
    guard = init_guard()
    norms = [50.0, *[1.0] * 30, 9.0, 1.0, 30.0, math.nan, 1.0]
    accepted = []
    check = jax.jit(check_step, static_argnums=3)
    for norm in norms:
        ok, guard = check(guard, jnp.float32(1), jnp.float32(norm), 5.0)
        accepted.append(bool(ok))
    # At the beginning nothing is a spike; at the end the average is near 50/20 + 1.
    assert accepted[:31] == [True] * 31
    assert accepted[31:] == [True, True, False, False, True]
    assert (int(guard.applied), int(guard.skipped), int(guard.in_row)) == (34, 2, 0)


def test_guard_ignores_spikes_when_off_but_never_infinity():
    guard = init_guard()
    for loss, norm, expected in ((1, 1e30, True), (1, math.inf, False), (math.nan, 1, False)):
        ok, guard = check_step(guard, jnp.float32(loss), jnp.float32(norm), 0.0)
        assert bool(ok) == expected
    assert int(guard.in_row) == 2
    assert np.isfinite(guard.norm)


def test_clipping_on_one_cpu_is_that_of_optax():
    keys = jax.random.split(jax.random.key(0), 2)
    grads = {"a": jax.random.normal(keys[0], (3, 40, 50)), "b": jax.random.normal(keys[1], (7,))}
    norm = float(optax.tree.norm(grads))
    assert float(optimizer.global_norm(grads)) == pytest.approx(norm, rel=1e-6)
    for limit in (norm / 3, norm * 3):
        clipped, _ = optimizer.clip_by_norm(limit).update(grads, optax.EmptyState())
        expected, _ = optax.clip_by_global_norm(limit).update(grads, optax.EmptyState())
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), clipped, expected)
