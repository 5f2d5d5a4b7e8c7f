"""Activations whose derivatives keep only their inputs, against automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpst_jax.models import activations


@pytest.mark.parametrize(
    ("ours", "plain", "count"),
    [
        (activations.gelu_of_input, activations.gelu, 1),
        (activations.swiglu_of_inputs, activations.swiglu, 2),
    ],
    ids=["gelu", "swiglu"],
)
def test_values_and_gradients_are_those_of_the_plain_function(ours, plain, count):
    rng = np.random.default_rng(0)
    # Far out on both sides as well, where the activation is zero or the identity.
    inputs = [jnp.asarray(6 * rng.normal(size=2000), jnp.float32) for _ in range(count)]
    grad = jnp.asarray(rng.normal(size=2000), jnp.float32)
    want, pull_plain = jax.vjp(plain, *inputs)
    got, pull = jax.vjp(ours, *inputs)
    np.testing.assert_array_equal(got, want)
    for a, b in zip(pull(grad), pull_plain(grad), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_the_backward_pass_keeps_only_the_input():
    x = jax.ShapeDtypeStruct((64, 32), jnp.bfloat16)
    kept = jax.eval_shape(lambda x: jax.vjp(activations.gelu_of_input, x)[1], x)
    assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(kept)] == [(x.shape, x.dtype)]
