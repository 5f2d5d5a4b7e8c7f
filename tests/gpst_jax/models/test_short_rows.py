"""The local transformer as TPUs run it: attention by sums, with positions first."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.tokens import NUM_SPECIALS, TokenLayout
from gpst_jax.config import (
    DataConfig,
    GPSTConfig,
    MeshConfig,
    OptimizerConfig,
    RunConfig,
    TransformerConfig,
)
from gpst_jax.models import attention, gpst
from gpst_jax.objectives import GPSTObjective
from gpst_jax.parallel import sharding
from gpst_jax.training import step as train_step

LAYOUT = TokenLayout(num_units=12, num_codebooks=4, codebook_size=8)
STEPS, ROWS, LENGTH, FRAMES = 20, 8, 16, 8


@pytest.mark.parametrize(("length", "kv_heads"), [(1, 4), (8, 4), (5, 2), (16, 1)])
def test_attention_by_sums_is_attention(length, kv_heads):
    rng = np.random.default_rng(0)
    heads = (4, kv_heads, kv_heads)
    inputs = [jnp.asarray(rng.normal(size=(length, 6, n, 8)), jnp.float32) for n in heads]
    grad = jnp.asarray(rng.normal(size=(length, 6, 4, 8)), jnp.float32)

    def plain(*arrays):
        rows_first = (x.swapaxes(0, 1) for x in arrays)
        return attention.attend(*rows_first, implementation="xla").swapaxes(0, 1)

    want, pull_plain = jax.vjp(plain, *inputs)
    got, pull = jax.vjp(attention.attend_short_rows, *inputs)
    np.testing.assert_allclose(got, want, atol=1e-5)
    for a, b in zip(pull(grad), pull_plain(grad), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def _config(block, mesh=None):
    return RunConfig(
        name="tiny",
        model=GPSTConfig(
            TransformerConfig(16, 1, 2, 24),
            TransformerConfig(16, 2, 4, 24, num_kv_heads=2),
            block=block,
            remat="dots",
            attention="xla",
        ),
        data=DataConfig(
            batch_size=ROWS,
            sequence_length=LENGTH,
            frame_budget=FRAMES,
            crop_seconds=0.05,
            positions="time" if block == "modern" else "running",
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=2),
        mesh=mesh or MeshConfig(1, 1, 1),
    )


def _batch(step):
    rng = np.random.default_rng(step)
    codes = rng.integers(LAYOUT.codebook_size, size=(ROWS, FRAMES, LAYOUT.num_codebooks))
    shift = NUM_SPECIALS + LAYOUT.codebook_size * np.arange(LAYOUT.num_codebooks)
    units = rng.integers(NUM_SPECIALS, LAYOUT.semantic_vocab, (ROWS, LENGTH))
    ones = np.ones((ROWS, LENGTH), np.int32)
    batch = {
        "tokens": np.where(np.arange(LAYOUT.num_codebooks) == 0, units[..., None], 0),
        "positions": np.arange(LENGTH) * ones,
        "streams": 0 * ones,
        "segment_ids": ones,
        "semantic_targets": np.roll(units, -1, axis=1),
        "frame_index": np.broadcast_to(LENGTH - FRAMES + np.arange(FRAMES), (ROWS, FRAMES)),
        "frames": codes + shift,
        "frame_segments": np.ones((ROWS, FRAMES)),
    }
    return {name: np.ascontiguousarray(value, np.int32) for name, value in batch.items()}


def _losses(config, devices):
    objective = GPSTObjective(config, LAYOUT)
    mesh = sharding.make_mesh(config.mesh, devices)
    losses = []
    with jax.set_mesh(mesh):
        state = train_step.init_state(objective, config, mesh)
        step = train_step.make_train_step(objective, config, mesh)
        for batch in itertools.islice(map(_batch, itertools.count()), STEPS):
            batch = jax.device_put(batch, sharding.batch_sharding(mesh))
            state, report = step(state, batch)
            losses.append(float(report.pairs["loss"][0]))
    return losses


@pytest.mark.parametrize(
    ("block", "mesh"), [("paper", MeshConfig(1, 1, 1)), ("modern", MeshConfig(2, 2, 2))]
)
def test_twenty_steps_have_the_losses_of_the_other_platforms(block, mesh, monkeypatch):
    """What is chosen for TPUs, on one device and on a mesh: same losses, step by step."""
    want = _losses(_config(block), jax.devices()[:1])
    monkeypatch.setattr(attention, "compiled_for", lambda: "tpu")
    assert gpst.attends_by_sums(LAYOUT.num_codebooks)
    count = mesh.replica * mesh.fsdp * mesh.tensor
    got = _losses(_config(block, mesh), jax.devices()[:count])
    np.testing.assert_allclose(got, want, atol=1e-5)
