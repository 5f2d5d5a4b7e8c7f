"""Label-smoothed cross-entropy against a direct formula, and its chunked form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpst_jax.objectives import losses


@pytest.fixture(scope="module")
def case():
    """Logits (3, 8, 7), targets and a mask that leaves some out."""
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(3, 8, 7))
    targets = rng.integers(7, size=(3, 8))
    mask = rng.random((3, 8)) < 0.7
    return logits, targets, mask


def _direct(logits, targets, mask, smoothing):
    """A loop over predictions, as in the definition: sums of loss and nll."""
    loss = nll = 0.0
    for row, target, counts in zip(
        logits.reshape(-1, logits.shape[-1]), targets.ravel(), mask.ravel(), strict=True
    ):
        if counts:
            log_probs = np.log(np.exp(row) / np.exp(row).sum())
            nll -= log_probs[target]
            loss -= (1 - smoothing) * log_probs[target] + smoothing * log_probs.mean()
    return loss, nll


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_against_the_direct_formula(case, smoothing):
    got = losses.cross_entropy(*map(jnp.asarray, case), smoothing)
    np.testing.assert_allclose(got, _direct(*case, smoothing), rtol=1e-6)


def test_without_smoothing_loss_is_nll(case):
    loss, nll = losses.cross_entropy(*map(jnp.asarray, case))
    assert loss == nll


def test_masked_targets_are_ignored(case):
    logits, targets, mask = case
    marked = np.where(mask, targets, -1)
    absurd = np.where(mask[..., None], logits, 1e4)
    want = losses.cross_entropy(*map(jnp.asarray, case), 0.1)
    got = losses.cross_entropy(jnp.asarray(absurd), jnp.asarray(marked), jnp.asarray(mask), 0.1)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert losses.cross_entropy(jnp.asarray(logits), jnp.asarray(marked), mask * 0)[0] == 0


def test_large_logits_stay_finite():
    logits = jnp.array([[1e4, -1e4, 0.0]])
    loss, nll = losses.cross_entropy(logits, jnp.array([1]), jnp.ones(1), 0.1)
    assert nll == pytest.approx(2e4)
    assert np.isfinite(loss)


@pytest.mark.parametrize("chunk_bytes", [1, 400, 1000, 10**9])
def test_chunks_change_neither_value_nor_gradient(case, chunk_bytes):
    _, targets, mask = map(jnp.asarray, case)
    keys = jax.random.split(jax.random.key(0))
    hidden, kernel = jax.random.normal(keys[0], (3, 8, 5)), jax.random.normal(keys[1], (5, 7))

    def unchunked(hidden, kernel):
        loss, nll = losses.cross_entropy(hidden @ kernel, targets, mask, 0.1)
        return loss, nll

    def chunked(hidden, kernel):
        return losses.chunked_cross_entropy(hidden, kernel, targets, mask, 0.1, chunk_bytes)

    want, want_grad = jax.value_and_grad(unchunked, (0, 1), has_aux=True)(hidden, kernel)
    got, got_grad = jax.value_and_grad(chunked, (0, 1), has_aux=True)(hidden, kernel)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    for a, b in zip(got_grad, want_grad, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("groups", [False, True])
def test_the_z_loss_is_the_sum_of_squared_log_normalisers(case, groups):
    """In one piece or in chunks, and whatever groups the predictions belong to."""
    logits, targets, mask = case
    normalisers = np.log(np.exp(logits).sum(axis=-1))
    penalty = 0.01 * np.square(normalisers)[mask].sum()
    if groups:
        mask = np.stack([mask & (targets < 3), mask & (targets >= 3)], axis=-1)
    loss, nll = losses.cross_entropy(*map(jnp.asarray, (logits, targets, mask)), 0.1)

    def sums(logits, targets, mask):
        return losses.penalised_cross_entropy(logits, targets, mask, 0.1, 0.01)

    hidden, kernel, *rest = map(jnp.asarray, (logits, np.eye(7), targets, mask))
    for chunk_bytes in (400, 10**9):
        found = losses.in_chunks(sums, hidden, kernel, *rest, chunk_bytes)
        np.testing.assert_allclose(found.loss, loss + penalty, rtol=1e-5)
        np.testing.assert_allclose(found.nll, nll, rtol=1e-5)
        np.testing.assert_allclose(found.z_loss, penalty, rtol=1e-5)


def test_chunks_bound_the_logits_in_memory():
    """With a small bound no intermediate value has the size of all logits."""
    hidden, kernel = jnp.ones((2, 24, 3)), jnp.ones((3, 11))
    targets, mask = jnp.zeros((2, 24), jnp.int32), jnp.ones((2, 24))

    def largest(chunk_bytes):
        def loss(hidden, kernel):
            return losses.chunked_cross_entropy(
                hidden, kernel, targets, mask, chunk_bytes=chunk_bytes
            )[0]

        text = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(hidden, kernel))
        return "f32[2,24,11]" in text

    assert largest(10**9)
    assert not largest(4 * 2 * 6 * 11)


def test_low_precision_logits_are_normalised_in_float32():
    """256 equal classes in bfloat16 sum to a multiple that bfloat16 itself could not hold."""
    logits = jnp.zeros((1, 257), jnp.bfloat16)
    _, nll = losses.cross_entropy(logits, jnp.array([0]), jnp.ones(1))
    assert nll.dtype == jnp.float32
    assert nll == pytest.approx(np.log(257), rel=1e-6)
