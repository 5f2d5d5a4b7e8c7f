"""Whether XLA's compiler for CPUs computes right sums here; see `gpst_jax`."""

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
    """Whether a sum that shows the fault is wrong on this process's default device."""
    rows = np.arange(_ROWS, dtype=np.float32)
    points = np.stack([rows, np.zeros_like(rows), np.zeros_like(rows)], axis=1)
    matrix = jnp.eye(3)
    squares = jax.jit(jax.vmap(lambda point: jnp.sum((matrix @ point) ** 2)))(points)
    return bool(np.any(np.asarray(squares) != rows**2))
