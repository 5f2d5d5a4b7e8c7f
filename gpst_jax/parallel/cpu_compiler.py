"""XLA's compiler for CPUs: whether a program is for it, and whether its sums are right."""

import jax
import jax.numpy as jnp
import numpy as np

from gpst_jax import FUSION_FLAG, SAFE_FUSION

_ROWS = 40_000
REMEDY = (
    "this JAX computes wrong sums on CPUs (github.com/jax-ml/jax, issue 39103): install jaxlib "
    f"0.12 or newer, or set XLA_FLAGS={FUSION_FLAG}={SAFE_FUSION} before JAX is first used"
)


def computes_wrong_sums() -> bool:
    """Whether a sum that shows the fault (see `gpst_jax`) is wrong on the default device."""
    rows = np.arange(_ROWS, dtype=np.float32)
    points = np.stack([rows, np.zeros_like(rows), np.zeros_like(rows)], axis=1)
    matrix = jnp.eye(3)
    squares = jax.jit(jax.vmap(lambda point: jnp.sum((matrix @ point) ** 2)))(points)
    return bool(np.any(np.asarray(squares) != rows**2))


def on_one_cpu() -> bool:
    """Whether the program traced here is for one CPU: by its mesh, or else by this process."""
    mesh = jax.sharding.get_abstract_mesh()
    device = mesh.abstract_device
    platform = jax.default_backend() if device is None else device.platform
    return platform == "cpu" and (mesh.empty or mesh.size == 1)
