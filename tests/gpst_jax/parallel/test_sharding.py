"""Mesh, rules table and the shardings that follow from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.tokens import TokenLayout
from gpst_jax.config import ConfigError, GPSTConfig, MeshConfig, TransformerConfig
from gpst_jax.models import gpst
from gpst_jax.parallel import sharding


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (MeshConfig(1, -1, 1), (1, 8, 1)),
        (MeshConfig(-1, 2, 2), (2, 2, 2)),
        (MeshConfig(2, 4, 1), (2, 4, 1)),
    ],
)
def test_minus_one_takes_the_remaining_devices(config, expected):
    mesh = sharding.make_mesh(config)
    assert tuple(mesh.shape.values()) == expected
    assert mesh.axis_names == sharding.MESH_AXES
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


@pytest.mark.parametrize(
    "config", [MeshConfig(3, -1, 1), MeshConfig(1, 4, 1), MeshConfig(2, 4, 2), MeshConfig(1, 16, 1)]
)
def test_mesh_that_does_not_fit_is_an_error(config):
    with pytest.raises(ConfigError, match=rf"replica={config.replica}.* 8 devices.*-1"):
        sharding.make_mesh(config)


@pytest.mark.parametrize(
    ("path", "sizes", "spec"),
    [
        ("global/layers/attn/q/kernel", (2, 8, 8), (None, ("fsdp",), ("tensor",))),
        ("global/layers/attn/out/kernel", (2, 8, 8), (None, ("tensor",), ("fsdp",))),
        ("local/layers/mlp/gate/kernel", (2, 8, 16), (None, ("fsdp",), ("tensor",))),
        ("local/layers/mlp/down/kernel", (2, 16, 8), (None, ("tensor",), ("fsdp",))),
        ("local/layers/attn/q_norm/scale", (2, 4), (None, None)),
        ("global/final_norm/bias", (8,), (None,)),
        ("global/embed/embedding", (10, 8), (("tensor",), ("fsdp",))),
        ("local/positions/embedding", (4, 8), (None, ("fsdp",))),
        ("acoustic_head/kernel", (8, 10), (("fsdp",), ("tensor",))),
        ("acoustic_head/kernel", (4, 8, 10), (None, ("fsdp",), ("tensor",))),
        # Dimensions that the mesh does not divide stay unsharded.
        ("semantic_head/kernel", (8, 11), (("fsdp",), None)),
        ("global/embed/embedding", (10, 6), (("tensor",), None)),
    ],
)
def test_rules(path, sizes, spec):
    mesh = sharding.make_mesh(MeshConfig(1, 4, 2))
    tree = shape(*sizes)
    for name in reversed(path.split("/")):
        tree = {name: tree}
    (found,) = jax.tree.leaves(sharding.parameter_shardings(mesh, tree))
    assert found.spec == jax.P(*spec)


@pytest.mark.parametrize("block", ["modern", "paper"])
@pytest.mark.parametrize("shared", [False, True])
def test_every_parameter_of_the_model_has_a_rule(block, shared):
    net = TransformerConfig(d_model=16, num_layers=2, num_heads=2, d_ff=32)
    config = GPSTConfig(net, net, block=block, shared_acoustic_head=shared)
    layout = TokenLayout(12, 2, 8, 50.0, 50.0)
    shapes = jax.eval_shape(lambda: gpst.init(config, layout, jax.random.key(0)))
    mesh = sharding.make_mesh(MeshConfig(1, 4, 2))
    shardings = jax.tree.leaves(sharding.parameter_shardings(mesh, shapes))
    # Large arrays are sharded over all eight devices, or at least over fsdp.
    for (path, leaf), found in zip(jax.tree.leaves_with_path(shapes), shardings, strict=True):
        parts = leaf.size // np.prod(found.shard_shape(leaf.shape))
        assert parts >= (4 if path[-1].key in ("kernel", "embedding") else 1), path


@pytest.mark.parametrize(
    ("tree", "named"),
    [
        ({"global": {"layers": {"attn": {"q": {"weight": shape(2, 8, 8)}}}}}, "attn/q/weight"),
        ({"projector": {"kernel": shape(8, 8, 8)}}, "projector/kernel"),  # rank of no rule
    ],
)
def test_parameter_without_a_rule_is_an_error(tree, named):
    with pytest.raises(ValueError, match=f"no sharding rule matches .*{named}"):
        sharding.parameter_shardings(sharding.make_mesh(MeshConfig()), tree)


def test_copies_of_parameters_are_found_by_path_and_shape():
    mesh = sharding.make_mesh(MeshConfig(1, 4, 2))
    params = {"projector": {"kernel": shape(8, 3)}, "semantic_head": {"kernel": shape(8, 4)}}
    shardings = sharding.parameter_shardings(mesh, params)
    state = {
        "moments": ({"count": shape()}, params),
        "factored": {"projector": {"kernel": shape(8)}},  # same path, other shape
    }
    found = sharding.like_parameters(state, params, shardings, mesh)
    assert found["moments"][1] == shardings
    assert found["moments"][0]["count"].spec == jax.P()
    assert found["factored"]["projector"]["kernel"].spec == jax.P()


def test_constrain():
    x = jnp.arange(8.0 * 3 * 4).reshape(8, 3, 4)
    assert sharding.constrain(x, ("batch", "length", "mlp")) is x  # no mesh
    mesh = sharding.make_mesh(MeshConfig(2, 2, 2))
    with jax.set_mesh(mesh):
        y = jax.jit(lambda x: sharding.constrain(x, ("batch", "length", "mlp")))(x)
        odd = jax.jit(lambda x: sharding.constrain(x[:, :, :3], ("batch", "length", "mlp")))(x)
    assert y.sharding.spec == jax.P(("replica", "fsdp"), None, "tensor")
    assert odd.sharding.spec == jax.P(("replica", "fsdp"))
    np.testing.assert_array_equal(x, y)
    with pytest.raises(ValueError, match="cannot have the axes"):
        sharding.constrain(x, ("batch", "length"))


def test_gathered_kernels_stay_sharded_over_tensor():
    mesh = sharding.make_mesh(MeshConfig(2, 2, 2))
    axes = ("embed", "mlp")
    x = jax.device_put(
        jnp.arange(8.0 * 4).reshape(8, 4), jax.NamedSharding(mesh, jax.P("fsdp", "tensor"))
    )
    with jax.set_mesh(mesh):
        y = jax.jit(lambda x: sharding.gather(x, axes, jnp.bfloat16))(x)
        grad = jax.jit(jax.grad(lambda x: jnp.sum(sharding.gather(x, axes) ** 2)))(x)
    assert y.dtype == jnp.bfloat16
    assert y.sharding.spec == jax.P(None, "tensor")
    assert grad.sharding.spec == x.sharding.spec
    np.testing.assert_array_equal(grad, 2 * x)
