"""Codebook patterns on eight devices give the loss and the gradients of one."""

import jax
import numpy as np
import pytest

from data_pipeline.tokens import TokenLayout, segment_tokens
from gpst_jax.config import DataConfig, GPSTConfig, MeshConfig, RunConfig, TransformerConfig
from gpst_jax.objectives import GPSTObjective
from gpst_jax.parallel import sharding

LAYOUT = TokenLayout(num_units=28, num_codebooks=2, codebook_size=16, unit_rate=50, frame_rate=50)
NET = TransformerConfig(32, 2, 4, 64)


@pytest.mark.parametrize("pattern", ["flat", "delay", "parallel"])
def test_a_mesh_gives_the_gradients_of_one_device(pattern, pack_rows, random_part, random_params):
    data = DataConfig(batch_size=8, sequence_length=32, frame_budget=16, crop_seconds=0.2)
    config = RunConfig("tiny", GPSTConfig(NET, NET, pattern=pattern), data)
    objective, rng = GPSTObjective(config, LAYOUT), np.random.default_rng(0)
    rows = [
        [segment_tokens(LAYOUT, [random_part(LAYOUT, rng, *size)]) for size in ((5, 6), (4, 3))]
        for _ in range(8)
    ]
    batch, key = pack_rows(rows, 32, 16), jax.random.key(0)
    params = random_params(config.model_as(GPSTConfig), LAYOUT)

    def loss(params, batch):
        return objective.loss(params, batch, key, objective.weights(batch), True)[0]

    one = jax.device_get(jax.jit(jax.value_and_grad(loss))(params, batch))
    mesh = sharding.make_mesh(MeshConfig(2, 2, 2))
    where = sharding.parameter_shardings(mesh, params)
    with jax.set_mesh(mesh):
        step = jax.jit(
            jax.value_and_grad(loss),
            in_shardings=(where, sharding.batch_sharding(mesh)),
        )
        several = jax.device_get(step(jax.device_put(params, where), batch))
    assert several[0] == pytest.approx(one[0], rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-3), several[1], one[1]
    )
