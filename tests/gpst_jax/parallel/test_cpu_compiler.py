"""Sums on CPUs are right in this project's programs, and known to be wrong where they would be."""

import importlib.metadata
import os
import subprocess
import sys

import programs
import pytest

from gpst_jax.parallel import cpu_compiler

_FAULT = """
import jax, jax.numpy as jnp, numpy as np
rows = np.arange(40_000, dtype=np.float32)
points = np.stack([rows, 0 * rows, 0 * rows], axis=1)
matrix = jnp.eye(3)
squares = jax.jit(jax.vmap(lambda point: jnp.sum((matrix @ point) ** 2)))(points)
print(int(np.sum(np.asarray(squares) != rows**2)))
"""


def printed(program: str) -> str:
    environment = programs.environment(XLA_FLAGS="", JAX_COMPILATION_CACHE_DIR="")
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_sums_of_this_process_are_right():
    assert not cpu_compiler.computes_wrong_sums()


@pytest.mark.skipif(
    importlib.metadata.version("jaxlib") != "0.10.2", reason="this jaxlib has no such fault"
)
def test_the_package_keeps_out_a_fault_that_is_there():
    assert int(printed(_FAULT)) > 0
    assert printed("import gpst_jax" + _FAULT) == "0"
    check = "from gpst_jax.parallel import cpu_compiler as c; print(c.computes_wrong_sums())"
    assert printed(check) == "False"
    # Too late: the flag is read when JAX first looks for devices.
    assert printed(f"import jax; jax.devices(); {check}") == "True"


def test_a_setting_of_the_user_stands():
    given = "--xla_cpu_experimental_ynn_fusion_type="
    show = "import os, gpst_jax; print(os.environ['XLA_FLAGS'])"
    environment = os.environ | {"XLA_FLAGS": given, "PYTHONPATH": str(programs.ROOT)}
    command = [sys.executable, "-c", show]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert run.stdout.strip() == given
