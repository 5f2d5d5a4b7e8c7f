"""The local transformer over chunks of frames: the same loss, gradients and metrics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.tokens import TokenLayout, segment_tokens
from gpst_jax.config import ConfigError, DataConfig, GPSTConfig, RunConfig, TransformerConfig
from gpst_jax.objectives import GPSTObjective, losses

LAYOUT = TokenLayout(num_units=11, num_codebooks=3, codebook_size=5, unit_rate=50, frame_rate=75)
LENGTH, BUDGET = 48, 32
KEY = jax.random.key(0)
PARTS = [[(4, 6), (5, 8), (3, 4)], [(12, 18)]]  # units and frames of the segments of each row


def _objective(**model):
    nets = TransformerConfig(16, 1, 2, 24), TransformerConfig(16, 2, 2, 24)
    data = DataConfig(batch_size=2, sequence_length=LENGTH, frame_budget=BUDGET, crop_seconds=1.0)
    return GPSTObjective(RunConfig("toy", GPSTConfig(*nets, **model), data), LAYOUT)


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(_objective().model_config, LAYOUT)


@pytest.fixture(scope="module")
def batch(pack_rows, random_part):
    rng = np.random.default_rng(0)
    rows = [[segment_tokens(LAYOUT, [random_part(LAYOUT, rng, *n)]) for n in row] for row in PARTS]
    return pack_rows(rows, LENGTH, BUDGET)


def _step(objective, params, batch, key=KEY):
    weights = objective.weights(batch)
    step = jax.value_and_grad(
        lambda params: objective.loss(params, batch, key, weights, True), has_aux=True
    )
    return jax.jit(step)(params)


@pytest.mark.parametrize(
    ("chunk", "model"),
    [  # 5 does not divide the 32 frames of a row
        (5, {"z_loss": 1e-2, "codebook_weights": "4,0,1", "remat": "dots"}),
        (8, {"local_drop": 0.5, "label_smoothing": 0.1}),
    ],
)
def test_chunks_change_no_loss_and_no_gradient(params, batch, chunk, model):
    (loss, metrics), gradients = _step(_objective(**model), params, batch)
    chunked = _step(_objective(**model, local_chunk=chunk), params, batch)
    np.testing.assert_allclose(chunked[0][0], loss, rtol=1e-6)
    for name, (total, count) in metrics.items():
        np.testing.assert_allclose(chunked[0][1][name], (total, count), rtol=1e-5, err_msg=name)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradients))
    for ours, theirs in zip(*map(jax.tree.leaves, (chunked[1], gradients)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6 * largest)


def test_each_chunk_has_dropout_of_its_own():
    def kept(x, key):
        return {"sum": (jax.random.bernoulli(key, 0.5, x.shape) * x).sum(axis=(0, 2))}

    ones = jnp.ones((2, 32, 3)).at[:, 16:].multiply(100.0)
    sums = losses.over_chunks(kept, (ones,), 16, KEY)["sum"]
    low, high = sums % 100, sums // 100
    assert (low > 0).any()
    assert (low != high).any()


def test_other_patterns_have_no_local_transformer_to_divide():
    with pytest.raises(ConfigError, match="local_chunk"):
        _objective(pattern="flat", local_chunk=8)
    with pytest.raises(ConfigError, match="local_chunk"):
        _objective(local_chunk=-1)
