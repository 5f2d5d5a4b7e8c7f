"""Splash attention, its kernel in interpret mode, against the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpst_jax.config import ConfigError, MeshConfig
from gpst_jax.models import attention, splash_attention
from gpst_jax.parallel import sharding


def _inputs():
    keys = jax.random.split(jax.random.key(0), 5)
    arrays = [jax.random.normal(key, (4, 256, 2, 64)) for key in keys[:4]]
    segments = jnp.sort(jax.random.randint(keys[4], (4, 256), 1, 4), axis=1)
    return *arrays, segments


def _outputs(attend, query, key, value, out):
    def scalar(query, key, value):
        mixed = attend(query, key, value)
        return (mixed * out).sum(), mixed

    return jax.jit(jax.value_and_grad(scalar, (0, 1, 2), has_aux=True))(query, key, value)


@pytest.mark.parametrize("mesh", [None, MeshConfig(1, 4, 2), MeshConfig(2, 2, 2)])
def test_equals_the_reference_forward_and_backward(mesh):
    query, key, value, out, segments = _inputs()
    expected = _outputs(
        lambda *x: attention.attend(*x, segment_ids=segments, implementation="xla"),
        *(query, key, value, out),
    )

    def attend(*x):
        return splash_attention.attend(*x, segments, interpret=True)

    if mesh is None:
        found = _outputs(attend, query, key, value, out)
    else:
        with jax.set_mesh(sharding.make_mesh(mesh)):
            found = _outputs(attend, query, key, value, out)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-5), found, expected
    )


def test_lengths_that_the_kernel_cannot_tile_are_an_error():
    query = jnp.zeros((1, 200, 2, 64))
    with pytest.raises(ValueError, match="multiple of 128, got 200"):
        splash_attention.attend(query, query, query, jnp.ones((1, 200), jnp.int32))


def test_auto_follows_the_platform_compiled_for():
    query = jax.ShapeDtypeStruct((2, 256, 2, 64), jnp.bfloat16)
    assert attention.resolve("auto", query) == "xla"
    assert attention.resolve("splash", query) == "splash"
    tpu = jax.sharding.AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
    mesh = jax.sharding.AbstractMesh((2,), ("replica",), abstract_device=tpu)
    with jax.sharding.use_abstract_mesh(mesh):
        assert attention.resolve("auto", query) == "splash"
        odd = jax.ShapeDtypeStruct((2, 200, 2, 64), jnp.bfloat16)
        assert attention.resolve("xla", odd) == "xla"
        with pytest.raises(
            ConfigError, match=r"data.sequence_length: .* 128 .* 200 is not; take 256"
        ):
            attention.resolve("auto", odd)
