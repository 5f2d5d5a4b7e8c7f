"""Networks over frames: the convolution, padding, positions, depth, and the published sizes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_frames
from flax import nnx

from gpst_jax.config import DataConfig, FlowConfig, RunConfig, SoundStormConfig, TransformerConfig
from gpst_jax.models import conformer
from gpst_jax.models.bidirectional import FrameAttention, Frames, frame_context
from gpst_jax.models.rope import rope_angles
from gpst_jax.models.transformer import BlockConfig
from gpst_jax.objectives import FlowObjective, SoundStormObjective

NET = toy_frames.NET
STYLE = BlockConfig("paper", jnp.dtype(jnp.float32))


@pytest.mark.parametrize("length", [7, 32, 45])
def test_depthwise_equals_the_library_forward_and_backward(length):
    rng = np.random.default_rng(length)
    x, grad = rng.normal(size=(2, 2, length, 6)).astype(np.float32)
    taps = rng.normal(size=(31, 6)).astype(np.float32)

    def library(x, taps):
        dimensions = ("NWC", "WIO", "NWC")
        return jax.lax.conv_general_dilated(
            x, taps[:, None], (1,), [(15, 15)], dimension_numbers=dimensions, feature_group_count=6
        )

    expected, expected_back = jax.vjp(library, x, taps)
    found, found_back = jax.vjp(conformer.depthwise, x, taps)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for ours, theirs in zip(found_back(grad), expected_back(grad), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-5)


def test_depth_splits_into_two_sides_and_a_bottleneck():
    split = {depth: conformer.split_depth(depth) for depth in (1, 2, 3, 4, 5, 12)}
    assert split == {1: (0, 1), 2: (0, 2), 3: (1, 1), 4: (1, 2), 5: (2, 1), 12: (5, 2)}


@pytest.mark.parametrize("backbone", ["uconformer", "dit"])
def test_padding_changes_no_valid_frame(backbone):
    objective = toy_frames.flow(TransformerConfig(16, 3, 2, 32), backbone=backbone, chain="plain")
    model = objective.model(toy_frames.random_params(objective))
    rng = np.random.default_rng(0)
    x, e, context = rng.normal(size=(3, 2, 30, toy_frames.WIDTH)).astype(np.float32)
    valid = np.arange(30)[None] < np.array([12, 9])[:, None]
    t = jnp.array([0.2, 0.7])
    run = jax.jit(model.velocity)
    wide = run(x, e, context, t, valid)
    narrow = run(*(part[:, :12] for part in (x, e, context)), t, valid[:, :12])
    assert np.abs(np.asarray(narrow)).max() > 0.1
    np.testing.assert_allclose(wide[:, :12][valid[:, :12]], narrow[valid[:, :12]], atol=2e-6)


@pytest.mark.parametrize("block", ["paper", "modern"])
def test_attention_depends_on_relative_positions_only(block):
    layer = FrameAttention(NET, STYLE._replace(name=block), rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, 10, 16))
    here = layer(x, frame_context(NET, 10_000.0, 10))
    far = rope_angles(1000 + jnp.arange(10)[None], NET.head_dim, 10_000.0)
    np.testing.assert_allclose(here, layer(x, Frames(far)), atol=1e-4)
    stretched = rope_angles(3 * jnp.arange(10)[None], NET.head_dim, 10_000.0)
    assert np.abs(here - layer(x, Frames(stretched))).max() > 1e-3


def test_modern_blocks_are_the_identity_at_initialisation():
    objective = toy_frames.flow(backbone="dit")
    model = objective.model(jax.jit(objective.init)(jax.random.key(0)))
    x = jax.random.normal(jax.random.key(1), (2, 6, 16))
    layers, frames = model.backbone.stack, frame_context(NET, 10_000.0, 6, time=jnp.ones((2, 16)))
    np.testing.assert_array_equal(layers(x, frames)[0], x)


def _parameters(objective):
    shapes = jax.eval_shape(objective.init, jax.random.key(0))
    return sum(
        math.prod(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
        if objective.trainable("/".join(key.key for key in path))
    )


@pytest.mark.parametrize(
    ("variant", "millions"),
    [
        ({"chain": "implicit"}, 341.9),
        ({"chain": "plain"}, 343.0),
        ({"chain": "explicit"}, 343.0),
        ({"chain": "plain", "semantics": "table"}, 344.0),
    ],
)
def test_flow_matching_has_the_published_size(variant, millions):
    net = TransformerConfig(d_model=1024, num_layers=12, num_heads=16, d_ff=4096)
    layout = toy_frames.TokenLayout(1024, 8, 1024, 50, 50)
    config = RunConfig("published", FlowConfig(net, **variant), DataConfig(frame_budget=600))
    books = np.broadcast_to(np.float32(0), (8, 1024, 1024))
    objective = FlowObjective(config, layout, books)
    assert _parameters(objective) / 1e6 == pytest.approx(millions, abs=0.1)


def test_soundstorm_has_the_published_size():
    net = TransformerConfig(d_model=1024, num_layers=12, num_heads=16, d_ff=4096)
    layout = toy_frames.TokenLayout(1024, 8, 1024, 50, 50)
    config = RunConfig("published", SoundStormConfig(net), DataConfig(frame_budget=600))
    books = np.broadcast_to(np.float32(0), (8, 1024, 1024))
    assert _parameters(SoundStormObjective(config, layout, books)) / 1e6 == pytest.approx(
        351, abs=1
    )
