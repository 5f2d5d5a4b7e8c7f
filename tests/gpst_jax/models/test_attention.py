"""Attention by cuDNN, where there is no GPU: the call means the same, and lowers for CUDA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpst_jax.models import attention

LENGTH, HEADS, WIDTH = 24, 4, 8
# Two packed segments and padding.
SEGMENTS = np.repeat([[1, 2, 0], [1, 1, 0]], [10, 9, 5], axis=1).astype(np.int32)
CASES = {
    "causal": {},
    "packed": {"segment_ids": SEGMENTS},
    "bidirectional": {"causal": False, "key_mask": SEGMENTS > 0},
    "all": {"segment_ids": SEGMENTS, "key_mask": SEGMENTS >= 0, "causal": True},
}


def _arrays(kv_heads: int, dtype=jnp.float32) -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(0), 3)
    return [
        jax.random.normal(key, (2, LENGTH, heads, WIDTH), dtype)
        for key, heads in zip(keys, (HEADS, kv_heads, kv_heads), strict=True)
    ]


@pytest.mark.parametrize("kv_heads", [HEADS, 2])
@pytest.mark.parametrize("case", CASES)
def test_what_cudnn_is_asked_for_is_what_xla_computes(case, kv_heads, monkeypatch):
    asked = []
    plain = jax.nn.dot_product_attention

    def stand_in(*arrays, implementation, **options):
        asked.append(implementation)
        return plain(*arrays, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    arrays = _arrays(kv_heads)

    def run(implementation):
        def loss(*arrays):
            found = attention.attend(*arrays, implementation=implementation, **CASES[case])
            return jnp.sum(found * jnp.cos(jnp.arange(WIDTH, dtype=found.dtype))[None, None, None])

        return jax.value_and_grad(loss, argnums=(0, 1, 2))(*arrays)

    ours, theirs = run("xla"), run("cudnn")
    assert asked == ["cudnn"]
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_cudnn_is_lowered_for_cuda(monkeypatch):
    found = "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version"
    monkeypatch.setattr(found, lambda: 91000)
    segments = jnp.asarray(SEGMENTS)

    def loss(*arrays):
        mixed = attention.attend(*arrays, segment_ids=segments, implementation="cudnn")
        return mixed.astype(jnp.float32).sum()

    step = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    arrays = _arrays(2, jnp.bfloat16)
    text = step.trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmhaScaleBiasSoftmax" in text
    assert "__cudnn$fmhaScaleBiasSoftmaxBackward" in text


def test_auto_is_cudnn_on_a_gpu_in_bfloat16(monkeypatch):
    monkeypatch.setattr(attention, "compiled_for", lambda: "gpu")
    assert attention.resolve("auto", jnp.zeros((1, 8, 1, 8), jnp.bfloat16)) == "cudnn"
    assert attention.resolve("auto", jnp.zeros((1, 8, 1, 8), jnp.float32)) == "xla"
    assert attention.resolve("xla", jnp.zeros((1, 8, 1, 8), jnp.bfloat16)) == "xla"


def test_attention_over_rows_of_several_blocks():
    """Against the plain formula, for a row of several query blocks."""
    length = 2 * attention._BLOCK + 5
    rng = np.random.default_rng(0)
    query, key, value = rng.normal(size=(3, 1, length, 2, 4)).astype(np.float32)
    segments = np.sort(rng.integers(4, size=(1, length)))
    for ids in (None, segments):
        got = attention.attend(*map(jnp.asarray, (query, key, value)), segment_ids=ids)
        seen = np.tril(np.ones((length, length), bool))
        if ids is not None:
            seen &= ids[0][:, None] == ids[0][None]
        for head in range(2):
            scores = query[0, :, head] @ key[0, :, head].T / 2
            weights = np.exp(scores) * seen
            want = weights @ value[0, :, head] / weights.sum(-1, keepdims=True)
            np.testing.assert_allclose(got[0, :, head], want, atol=1e-5)
