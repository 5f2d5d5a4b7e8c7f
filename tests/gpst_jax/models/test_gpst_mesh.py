"""GPST on eight devices gives the loss and the gradients of one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_pipeline.tokens import NUM_SPECIALS, PAD, TokenLayout
from gpst_jax.compilation import hlo, hlo_cost
from gpst_jax.config import DataConfig, GPSTConfig, MeshConfig, RunConfig, TransformerConfig
from gpst_jax.models.transformer import AttentionContext
from gpst_jax.objectives import GPSTObjective
from gpst_jax.parallel import sharding

LAYOUT = TokenLayout(num_units=28, num_codebooks=2, codebook_size=16, unit_rate=50, frame_rate=50)
ROWS, LENGTH, FRAMES = 8, 32, 16


def _objective(block: str, remat: str = "none", chunk: int = 0) -> GPSTObjective:
    data = DataConfig(
        batch_size=ROWS,
        sequence_length=LENGTH,
        frame_budget=FRAMES,
        crop_seconds=0.3,
        positions="time" if block == "modern" else "running",
    )
    nets = TransformerConfig(32, 3, 4, 64), TransformerConfig(16, 2, 4, 32)
    weights = {"semantic_weight": 0.5, "codebook_weights": "moshi", "z_loss": 1e-3}
    fields = {"block": block, "remat": remat, "local_chunk": chunk}
    model = GPSTConfig(*nets, **fields, **(weights if block == "paper" else {}))
    return GPSTObjective(RunConfig("tiny", model, data), LAYOUT)


@functools.cache
def _batch() -> dict[str, np.ndarray]:
    """Two segments a row, of random ids: half units, half frames."""
    random = np.random.default_rng(0)
    half, frames_half = LENGTH // 2, FRAMES // 2
    units = random.integers(NUM_SPECIALS, LAYOUT.semantic_vocab, (ROWS, LENGTH))
    codes = NUM_SPECIALS + random.integers(0, 16, (ROWS, LENGTH, 2)) + np.array([0, 16])
    streams = np.broadcast_to(np.arange(LENGTH) % half >= half // 2, (ROWS, LENGTH))
    semantic = np.stack([units, np.full_like(units, PAD)], axis=2)
    segments = np.broadcast_to(1 + np.arange(LENGTH) // half, (ROWS, LENGTH))
    frame_segments = np.broadcast_to(1 + np.arange(FRAMES) // frames_half, (ROWS, FRAMES))
    index = (frame_segments - 1) * half + half // 2 + np.arange(FRAMES) % frames_half
    local = NUM_SPECIALS + random.integers(0, 16, (ROWS, FRAMES, 2)) + np.array([0, 16])
    batch = {
        "tokens": np.where(streams[..., None], codes + LAYOUT.semantic_vocab, semantic),
        "positions": np.broadcast_to(np.arange(LENGTH) % (half // 2), (ROWS, LENGTH)),
        "streams": streams,
        "segment_ids": segments,
        "semantic_targets": np.where(streams, -1, np.roll(units, -1, axis=1)),
        "frame_index": index,
        "frames": local,
        "frame_segments": frame_segments,
    }
    return {name: np.ascontiguousarray(value, dtype=np.int32) for name, value in batch.items()}


def _loss(objective, params, batch):
    key = jax.random.key(0)
    return objective.loss(params, batch, key, objective.weights(batch), True)[0]


@functools.cache
def _one_device(block: str):
    objective = _objective(block)
    params = objective.init(jax.random.key(1))
    step = jax.jit(jax.value_and_grad(functools.partial(_loss, objective)))
    return params, jax.device_get(step(params, _batch()))


@pytest.mark.parametrize(
    ("block", "sizes", "remat", "chunk"),
    [
        ("modern", (1, 8, 1), "none", 0),
        ("modern", (2, 2, 2), "dots", 6),
        ("modern", (1, 2, 4), "full", 0),
        ("paper", (2, 2, 2), "none", 0),
    ],
)
def test_meshes_give_the_gradients_of_one_device(block, sizes, remat, chunk):
    params, expected = _one_device(block)
    mesh = sharding.make_mesh(MeshConfig(*sizes))
    where = sharding.parameter_shardings(mesh, params)
    with jax.set_mesh(mesh):
        step = jax.jit(
            jax.value_and_grad(functools.partial(_loss, _objective(block, remat, chunk))),
            in_shardings=(where, sharding.batch_sharding(mesh)),
        )
        found = jax.device_get(step(jax.device_put(params, where), _batch()))
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-3), found[1], expected[1]
    )


def test_layers_are_gathered_inside_the_loop_only():
    objective = _objective("modern")
    params = jax.eval_shape(objective.init, jax.random.key(1))
    mesh = sharding.make_mesh(MeshConfig())
    where = sharding.parameter_shardings(mesh, params)
    with jax.set_mesh(mesh):
        step = jax.jit(
            jax.grad(functools.partial(_loss, objective)),
            in_shardings=(where, sharding.batch_sharding(mesh)),
            out_shardings=where,
        )
        compiled = step.lower(params, objective.batch_spec()).compile()
    module = hlo.parse(compiled.as_text())
    gathers = [item for item in hlo_cost.transfers(module) if item.kind == "all-gather"]
    layers = params["global_net"]["layers"]
    stacked = max(leaf.size for leaf in jax.tree.leaves(layers)) * 4
    assert gathers
    # One layer of the widest matrix at a time: all layers would be three times as large.
    assert max(item.bytes / item.count for item in gathers) <= stacked / 3
    assert {item.count for item in gathers} >= {2, 3}  # the local and the global transformer


def test_scan_equals_the_layers_one_after_another():
    objective = _objective("modern")
    model = objective.model(objective.init(jax.random.key(1)))
    x = jax.random.normal(jax.random.key(2), (2, LENGTH, 32))
    context = model.context(jnp.broadcast_to(jnp.arange(LENGTH)[None], (2, LENGTH)))
    assert isinstance(context, AttentionContext)
    graph, stacked = nnx.split(model.global_net.layers)
    y = x
    for layer in range(3):
        block = nnx.merge(graph, jax.tree.map(lambda leaf, layer=layer: leaf[layer], stacked))
        y = block(y, context)
    expected = model.global_net.final_norm(y)
    np.testing.assert_allclose(model.global_net(x, context), expected, atol=1e-5)
