"""The models over frames on eight devices give the loss and the gradients of one."""

import functools

import jax
import numpy as np
import pytest
import toy_frames

from gpst_jax.config import MeshConfig, TransformerConfig
from gpst_jax.parallel import sharding

NET = TransformerConfig(16, 3, 4, 32)
FAMILIES = {
    "uconformer": (toy_frames.flow, {"chain": "plain", "semantics": "table"}),
    "dit": (toy_frames.flow, {"backbone": "dit"}),
    "soundstorm": (toy_frames.soundstorm, {}),
}


def _objective(family, remat="none"):
    make, fields = FAMILIES[family]
    return make(NET, remat=remat, **fields)


def _loss(objective, params, batch):
    return objective.loss(params, batch, jax.random.key(0), objective.weights(batch), True)[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_has_a_rule(family):
    params = jax.eval_shape(_objective(family).init, jax.random.key(0))
    shardings = sharding.parameter_shardings(sharding.make_mesh(MeshConfig(2, 2, 2)), params)
    assert jax.tree.structure(shardings) == jax.tree.structure(params)


@pytest.mark.parametrize(
    ("family", "sizes", "remat"),
    [
        ("uconformer", (2, 2, 2), "dots"),
        ("dit", (1, 2, 4), "full"),
        ("soundstorm", (1, 8, 1), "none"),
    ],
)
def test_meshes_give_the_gradients_of_one_device(family, sizes, remat):
    objective = _objective(family)
    params, batch = toy_frames.random_params(objective), toy_frames.batch(8)
    one = jax.jit(jax.value_and_grad(functools.partial(_loss, objective)))
    expected = jax.device_get(one(params, batch))
    mesh = sharding.make_mesh(MeshConfig(*sizes))
    where = sharding.parameter_shardings(mesh, params)
    with jax.set_mesh(mesh):
        step = jax.jit(
            jax.value_and_grad(functools.partial(_loss, _objective(family, remat))),
            in_shardings=(where, sharding.batch_sharding(mesh)),
        )
        found = jax.device_get(step(jax.device_put(params, where), batch))
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5, rtol=2e-3), found[1], expected[1]
    )
