"""Keeps a faulty fusion of XLA's CPU compiler out of this project's programs.

jaxlib 0.10.2 sums the rows of some fused products wrongly on CPUs, beyond 32,768 rows of float32
(github.com/jax-ml/jax, issue 39103); 0.10.1 and 0.12 are right. The fusion can be switched off
before JAX first looks for devices.
"""

import importlib.metadata
import os

import numpy as np

_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_FAULTY = ("0.10.2",)  # where the flag is known to exist: an unknown one ends the process
_ROWS = 40_000
REMEDY = (
    "this JAX computes wrong sums on CPUs (github.com/jax-ml/jax, issue 39103): install jaxlib 0.12 "
    f"or newer, or set XLA_FLAGS={_FLAG}= before JAX is first used"
)


def avoid_fusion() -> None:
    """Switches the fusion off for this process and those that it starts, where it is faulty.

    A setting of the user's stands. Without effect once JAX has looked for devices.
    """
    given = os.environ.get("XLA_FLAGS", "")
    if importlib.metadata.version("jaxlib") in _FAULTY and _FLAG not in given:
        os.environ["XLA_FLAGS"] = f"{given} {_FLAG}=".strip()


def computes_wrong_sums() -> bool:
    """Whether a sum that shows the fault is wrong on this process's default device."""
    import jax  # not needed by those who only read what a run has written
    import jax.numpy as jnp

    rows = np.arange(_ROWS, dtype=np.float32)
    points = np.stack([rows, np.zeros_like(rows), np.zeros_like(rows)], axis=1)
    matrix = jnp.eye(3)
    squares = jax.jit(jax.vmap(lambda point: jnp.sum((matrix @ point) ** 2)))(points)
    return bool(np.any(np.asarray(squares) != rows**2))
