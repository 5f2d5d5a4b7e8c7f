"""Sharding: the device mesh, one table of rules, and the shardings that follow from it.

Three steps lead from a parameter to its devices. Its path and rank give *logical* axes
(`PARAMETER_AXES`), a logical axis gives mesh axes (`PARAMETER_MESH_AXES`, or for activations
`ACTIVATION_MESH_AXES`), and a dimension whose size the mesh axes do not divide stays unsharded.
All mesh axes are `Auto`: the compiler propagates shardings between the constrained arrays.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gpst_jax.config import ConfigError, MeshConfig

MESH_AXES = ("replica", "fsdp", "tensor")
BATCH_AXES = ("replica", "fsdp")  # both shard the rows of a batch

LogicalAxes = tuple[str | None, ...]

# First match of path and rank wins. A path is the keys of the parameter tree joined by slashes.
PARAMETER_AXES: tuple[tuple[str, LogicalAxes], ...] = (
    (r"(^|/)lora/.*/[ab]$", ("layers", None, None)),  # adapters are small: replicated
    (r"(^|/)lora/.*/[ab]$", (None, None)),
    (r"layers/attn/[qkv]/kernel$", ("layers", "embed", "heads")),
    (r"layers/attn/[qkv]/bias$", ("layers", "heads")),
    (r"layers/attn/out/kernel$", ("layers", "heads", "embed")),
    (r"layers/attn/out/bias$", ("layers", "norm")),
    (r"layers/attn/[qk]_norm/scale$", ("layers", "norm")),
    (r"layers/attn/[qk]_bias$", ("layers", "heads", "norm")),
    (r"layers/mlp/(up|gate)/kernel$", ("layers", "embed", "mlp")),
    (r"layers/mlp/(up|gate)/bias$", ("layers", "mlp")),
    (r"layers/mlp/down/kernel$", ("layers", "mlp", "embed")),
    (r"layers/mlp/down/bias$", ("layers", "norm")),
    (r"layers/(attn|mlp)_norm/(scale|bias)$", ("layers", "norm")),
    (r"layers/(ff1|ff2|conv)/(up|gate)/kernel$", ("layers", "embed", "mlp")),
    (r"layers/(ff1|ff2|conv)/(up|gate)/bias$", ("layers", "mlp")),
    (r"layers/(ff1|ff2|conv)/down/kernel$", ("layers", "mlp", "embed")),
    (r"layers/(ff1|ff2|conv)/down/bias$", ("layers", "norm")),
    (r"layers/(ff1|ff2|conv|post)_norm/(scale|bias)$", ("layers", "norm")),
    (r"layers/conv/taps$", ("layers", None, "mlp")),
    (r"layers/conv/(taps_bias|channel_scale)$", ("layers", "mlp")),
    (r"layers/(skip|modulation)/kernel$", ("layers", "embed", None)),
    (r"layers/(skip|modulation)/bias$", ("layers", "norm")),
    (r"(time_in|time_out|final_modulation|to_pred|level_head)/kernel$", ("embed", None)),
    (r"to_embed/kernel$", (None, "embed")),
    (r"(time_in|time_out|final_modulation|to_embed|level_head)/bias$", ("norm",)),
    (r"codebooks/embedding$", ("codebooks", "table", None)),
    (r"latent_shift$", (None, None)),
    (r"latent_scale$", ()),
    (r"(final|head)_norm/(scale|bias)$", ("norm",)),
    (r"embed/embedding$", ("vocab", "embed")),
    (r"(positions|streams)/embedding$", ("table", "embed")),
    (r"projector/kernel$", ("embed", "local_embed")),
    (r"projector/bias$", ("norm",)),
    (r"semantic_head/kernel$", ("embed", "vocab")),
    (r"(^|/)head/kernel$", ("embed", "vocab")),
    (r"acoustic_head/kernel$", ("embed", "vocab")),  # one head for all codebooks
    (r"acoustic_head/kernel$", ("codebooks", "embed", "vocab")),
    (r"acoustic_head/bias$", ("codebooks", "vocab")),
)

# Parameters: `fsdp` shards the width, `tensor` the heads, feed-forward and vocabulary.
PARAMETER_MESH_AXES: Mapping[str, str | None] = {
    "layers": None,  # the axis of the scan over layers
    "embed": "fsdp",
    "local_embed": None,
    "heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
    "codebooks": None,
    "table": None,
    "norm": None,  # vectors: too small to be worth a gather
}

# Activations: rows are sharded over both data axes, so the width cannot be.
ACTIVATION_MESH_AXES: Mapping[str, str | tuple[str, ...] | None] = {
    "batch": BATCH_AXES,
    "length": None,
    "embed": None,
    "heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
    "codebooks": None,
}


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """Arranges the devices as (replica, fsdp, tensor), all of type `Auto`.

    Where the devices form several slices, `replica` is laid out over the slices first, so that the
    slow network between them carries one all-reduce of gradients per step and nothing else.

    Args:
        config: the size of each axis; -1 takes the remaining devices.
        devices: the devices to use; None uses all of them.

    Raises:
        ConfigError: the sizes do not multiply to the number of devices, or the slices do not
            divide `replica`.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = mesh_shape(config, len(devices))
    slices = len({getattr(device, "slice_index", None) for device in devices})
    if shape[0] % slices:
        raise ConfigError(
            f"config field mesh.replica: {slices} slices do not divide {shape[0]}; "
            f"make it a multiple of {slices}"
        )

    def arrange(**options):
        if slices == 1:
            return mesh_utils.create_device_mesh(shape, devices, **options)
        within = (shape[0] // slices, *shape[1:])
        return mesh_utils.create_hybrid_device_mesh(within, (slices, 1, 1), devices, **options)

    try:
        arranged = arrange()
    except NotImplementedError:
        # No product of torus axes gives the mesh axis, such as fsdp=16 on 4x8x8 chips.
        arranged = arrange(allow_split_physical_axes=True)
    types = (AxisType.Auto,) * len(MESH_AXES)
    return jax.sharding.Mesh(arranged, MESH_AXES, axis_types=types)


def mesh_shape(config: MeshConfig, num_devices: int) -> tuple[int, int, int]:
    """Returns the sizes of (replica, fsdp, tensor) with -1 resolved.

    Raises:
        ConfigError: the sizes do not multiply to `num_devices`.
    """
    sizes = (config.replica, config.fsdp, config.tensor)
    fixed = math.prod(size for size in sizes if size != -1)
    free = -1 in sizes
    if num_devices % fixed or (not free and fixed != num_devices):
        raise ConfigError(
            f"config field mesh: replica={sizes[0]}, fsdp={sizes[1]}, tensor={sizes[2]} do not fit "
            f"{num_devices} devices; choose sizes whose product is {num_devices}, or set one to -1"
        )
    replica, fsdp, tensor = (num_devices // fixed if size == -1 else size for size in sizes)
    return replica, fsdp, tensor


def path_string(path: tuple[Any, ...]) -> str:
    """The keys of a tree path joined by slashes, as in the rules and in messages."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def parameter_axes(path: str, ndim: int) -> LogicalAxes:
    """Looks up the logical axes of a parameter.

    Raises:
        ValueError: no rule matches the path and rank; the message names the parameter.
    """
    for pattern, axes in PARAMETER_AXES:
        if len(axes) == ndim and re.search(pattern, path):
            return axes
    raise ValueError(
        f"no sharding rule matches parameter {path!r} with {ndim} axes: add one to "
        "gpst_jax.parallel.sharding.PARAMETER_AXES"
    )


def parameter_shardings(
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh,
    params: Any,
    axes_of: Callable[[str, int], LogicalAxes] = parameter_axes,
) -> Any:
    """Maps a tree of parameters (arrays or their shapes) to a tree of NamedSharding.

    Args:
        mesh: a mesh with the axes of `MESH_AXES`.
        params: nested dicts whose leaves have `shape` and `ndim`.
        axes_of: logical axes from (path, rank); an unknown parameter must raise.

    Raises:
        ValueError: a parameter that no rule matches, or a rule of the wrong rank.
    """

    def sharding(key_path, leaf):
        path = path_string(key_path)
        axes = axes_of(path, leaf.ndim)
        if len(axes) != leaf.ndim:
            raise ValueError(f"parameter {path!r} of shape {leaf.shape} has the axes {axes}")
        return NamedSharding(mesh, _spec(mesh, leaf.shape, axes, PARAMETER_MESH_AXES))

    return jax.tree.map_with_path(sharding, params)


def like_parameters(state: Any, params: Any, shardings: Any, mesh: Any) -> Any:
    """Shardings for a tree that holds copies of the parameters, such as an optimiser state.

    A leaf whose path ends in a parameter's path and that has its shape is sharded like it (first
    and second moments, EMA); every other leaf (counters, coefficients) is replicated. Without
    this `jax.jit(tx.init)` replicates the moments.

    Args:
        state: the tree, or its shapes as `jax.eval_shape` gives them.
        params: the parameters or their shapes.
        shardings: their NamedSharding, of the same structure.
        mesh: the mesh of the replicated leaves.
    """
    known = {
        path_string(path): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(
            jax.tree.leaves_with_path(params), jax.tree.leaves(shardings), strict=True
        )
    }

    def sharding(key_path, leaf):
        parts = path_string(key_path).split("/")
        for start in range(len(parts)):
            shape, same = known.get("/".join(parts[start:]), (None, None))
            if shape == leaf.shape:
                return same
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree.map_with_path(sharding, state)


def batch_sharding(mesh: Any) -> NamedSharding:
    """Shards the rows of a batch over (replica, fsdp), and no other axis."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def num_row_shards(mesh: Any) -> int:
    """The number of shards of the rows of a batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def constrain(x: jax.Array, axes: LogicalAxes) -> jax.Array:
    """Constrains the sharding of an activation at this point of the program.

    Args:
        x: an array inside a traced function.
        axes: one logical axis of `ACTIVATION_MESH_AXES`, or None, for each of its axes.

    Returns:
        x itself where no mesh is set (`jax.set_mesh`) or it has one device; otherwise x with the
        constraint. A dimension that its mesh axes do not divide stays unsharded.
    """
    if len(axes) != x.ndim:
        raise ValueError(f"an array of shape {x.shape} cannot have the axes {axes}")
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, _spec(mesh, x.shape, axes, ACTIVATION_MESH_AXES))


def gather(x: jax.Array, axes: LogicalAxes, dtype: Any = None) -> jax.Array:
    """All-gathers a parameter over the data axes: fully sharded data parallelism.

    In the forward pass it is cast, then gathered; in the backward pass the gradient is summed
    straight into the parameter's sharding (a reduce-scatter, where a plain constraint would give
    an all-reduce and discard most of it). Axes over `tensor` stay sharded.

    Args:
        x: a parameter inside a traced function.
        axes: its logical axes, as in `PARAMETER_AXES`.
        dtype: that of the gathered copy and of the sum of gradients; None keeps x's.

    Returns:
        x itself where no mesh is set or it has one device; otherwise the gathered copy.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    sharded = _spec(mesh, x.shape, axes, PARAMETER_MESH_AXES)
    whole = without_data_axes(sharded)
    param_dtype = x.dtype

    @jax.custom_vjp
    def gathered(x):
        cast = jax.lax.with_sharding_constraint(x.astype(dtype or param_dtype), sharded)
        return jax.lax.with_sharding_constraint(cast, whole)

    def backward(_, grad):
        return (jax.lax.with_sharding_constraint(grad, sharded).astype(param_dtype),)

    gathered.defvjp(lambda x: (gathered(x), None), backward)
    return gathered(x)


def without_data_axes(spec: PartitionSpec) -> PartitionSpec:
    """The spec of a gathered parameter: sharded over `tensor` only."""
    # PartitionSpec turns a tuple of one name into the name.
    return PartitionSpec(*("tensor" if axis in ("tensor", ("tensor",)) else None for axis in spec))


def gather_layer(params: Any, dtype: Any) -> Any:
    """`gather` for every kernel of one layer, a nested dict without the leading layer axis."""

    def one(key_path, leaf):
        path = "layers/" + path_string(key_path)
        axes = parameter_axes(path, leaf.ndim + 1)[1:]
        return gather(leaf, axes, dtype) if path.endswith("/kernel") else leaf

    return jax.tree.map_with_path(one, params)


def _spec(mesh, shape: Sequence[int], axes: LogicalAxes, table: Mapping[str, Any]) -> PartitionSpec:
    """Mesh axes of each dimension; None where they do not divide it."""
    entries = []
    for size, axis in zip(shape, axes, strict=True):
        names = None if axis is None else table[axis]
        names = (names,) if isinstance(names, str) else names
        parts = math.prod(mesh.shape[name] for name in names) if names else 1
        entries.append(names if parts > 1 and size % parts == 0 else None)
    return PartitionSpec(*entries)
