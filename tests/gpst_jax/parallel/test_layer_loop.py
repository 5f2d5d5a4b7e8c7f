"""Layers unrolled on one CPU compute what a scan over them computes, gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpst_jax.config import MeshConfig
from gpst_jax.parallel import layer_loop, sharding

DEPTH, WIDTH = 3, 8


def layers(depth=DEPTH):
    keys = jax.random.split(jax.random.key(0), depth)
    kernels = jax.vmap(lambda key: jax.random.normal(key, (WIDTH, WIDTH)))(keys)
    return {"kernel": kernels, "key": keys, "none": None}


def body(x, layer):
    noise = jax.random.normal(layer["key"], x.shape)
    x = jnp.tanh(x @ layer["kernel"]) + 0.1 * noise
    return x, {"mean": x.mean()}


def losses(loop, kernel, x):
    given = layers(len(kernel)) | {"kernel": kernel}
    last, results = loop(body, x, given)
    return jnp.sum(last**2) + jnp.sum(results["mean"] * jnp.arange(len(kernel)))


def loops(program) -> int:
    return str(jax.make_jaxpr(program)(layers()["kernel"], jnp.ones((2, WIDTH)))).count("scan[")


@pytest.mark.parametrize("depth", [1, DEPTH, layer_loop.UNROLLED_ON_CPU + 1])
def test_unrolled_layers_equal_the_scan(depth):
    x, kernel = jax.random.normal(jax.random.key(1), (2, WIDTH)), layers(depth)["kernel"]

    def run(loop):
        step = jax.value_and_grad(lambda *given: losses(loop, *given), argnums=(0, 1))
        return jax.jit(step)(kernel, x)

    found, expected = run(layer_loop.over_layers), run(jax.lax.scan)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected
    )


def test_only_programs_for_one_cpu_are_unrolled():
    def loss(kernel, x):
        return losses(layer_loop.over_layers, kernel, x)

    assert loops(loss) == 0
    with jax.set_mesh(sharding.make_mesh(MeshConfig(), jax.devices()[:1])):
        assert loops(loss) == 0
    with jax.set_mesh(sharding.make_mesh(MeshConfig())):
        assert loops(loss) == 1
