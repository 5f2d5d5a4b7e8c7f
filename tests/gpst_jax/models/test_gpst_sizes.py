"""Parameter counts of the published sizes, and how parameters are drawn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.tokens import TokenLayout
from gpst_jax.config import GPSTConfig, TransformerConfig
from gpst_jax.models import gpst

LAYOUT = TokenLayout(num_units=11, num_codebooks=3, codebook_size=5, unit_rate=50, frame_rate=75)


def _published(num_global, num_local, codebooks):
    return (
        GPSTConfig(
            TransformerConfig(1024, num_global, 16, 4096),
            TransformerConfig(512, num_local, 8, 2048),
            block="paper",
        ),
        TokenLayout(10_000, codebooks, 1024),
    )


@pytest.mark.parametrize(
    ("num_global", "num_local", "codebooks", "millions"),
    [(9, 12, 8, 190.7), (9, 12, 16, 207.5), (11, 4, 8, 190.7), (10, 8, 8, 190.7)],
)
def test_parameter_counts_of_the_published_sizes(num_global, num_local, codebooks, millions):
    config, layout = _published(num_global, num_local, codebooks)
    shapes = jax.eval_shape(functools.partial(gpst.init, config, layout), jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count / 1e6 == pytest.approx(millions, abs=0.1)


def test_initial_parameters_are_float32_and_follow_the_key():
    net = TransformerConfig(32, 2, 4, 32)  # few different shapes, as each is compiled
    config = GPSTConfig(net, net)
    one, same, other = (gpst.init(config, LAYOUT, jax.random.key(seed)) for seed in (0, 0, 1))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(one))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    kernel, changed = (
        np.asarray(params["global_net"]["layers"]["attn"]["q"]["kernel"]) for params in (one, other)
    )
    assert np.abs(kernel - changed).max() > 0.01
    assert np.abs(kernel[0] - kernel[1]).max() > 0.01  # layers differ
    for leaf in (
        kernel,
        one["global_net"]["embed"]["embedding"],
        one["local_net"]["embed"]["embedding"],
        one["semantic_head"]["kernel"],
        one["acoustic_head"]["kernel"],
    ):
        assert np.std(leaf) == pytest.approx(32**-0.5, rel=0.1)
