"""Cases that run in JAX: the real train step, the flattened baseline, and plain matrix products."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from gpst_jax.benchmarks.flattened import FlattenedObjective, flat_net
from gpst_jax.benchmarks.workload import Workload
from gpst_jax.objectives import GPSTObjective, Objective
from gpst_jax.parallel import sharding
from gpst_jax.parallel.chips import peak_flops
from gpst_jax.training.step import init_state, make_train_step


class JaxStep:
    """One training step on one device: `gpst_jax.training.step`, as `pretrain` runs it.

    Args:
        workload: dimensions and optimiser.
        objective: GPST, or a baseline behind the same protocol.
        batch: its batch of NumPy arrays.
    """

    def __init__(self, workload: Workload, objective: Objective, batch: dict[str, Any]):
        config = workload.config
        self.device = jax.local_devices()[0]
        self._mesh = sharding.make_mesh(config.mesh, [self.device])
        with jax.set_mesh(self._mesh):
            self._batch = jax.device_put(batch, sharding.batch_sharding(self._mesh))
            self._state = init_state(objective, config, self._mesh)
            lowered = make_train_step(objective, config, self._mesh).lower(self._state, self._batch)
            self._step = lowered.compile()
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(self._state.params))
        self.flops = sum(objective.flops().values())

    def __call__(self) -> float:
        """Runs a step to its end and returns the loss."""
        self._state, report = self._step(self._state, self._batch)
        jax.block_until_ready(self._state)
        total, count = report.pairs["loss"]
        return float(total / count)

    def peak_bytes(self) -> int | None:
        """Peak of device memory; None where the platform does not say, as a CPU."""
        return (self.device.memory_stats() or {}).get("peak_bytes_in_use")


def gpst_step(workload: Workload) -> JaxStep:
    """Our step."""
    return JaxStep(workload, GPSTObjective(workload.config, workload.layout), workload.batch())


def unrolled_step(workload: Workload) -> JaxStep:
    """Our step with both layer loops unrolled by the compiler's front end.

    The model has no switch for it: `jax.lax.scan` is told to unroll while the step is traced.
    """
    scan = jax.lax.scan
    jax.lax.scan = functools.partial(scan, unroll=True)
    try:
        return gpst_step(workload)
    finally:
        jax.lax.scan = scan


def flattened_step(workload: Workload) -> JaxStep:
    """The step of the flattened decoder with as many parameters as GPST."""
    ours = GPSTObjective(workload.config, workload.layout)
    shapes = jax.eval_shape(ours.init, jax.random.key(0))
    net = flat_net(workload, sum(leaf.size for leaf in jax.tree.leaves(shapes)))
    objective = FlattenedObjective(workload, net)
    return JaxStep(workload, objective, objective.batch())


class Matmul:
    """A square matrix product: the rate that this device reaches in this very run.

    Args:
        size: rows and columns.
        dtype: of the operands.
    """

    parameters = 0

    def __init__(self, size: int, dtype: str):
        self.device = jax.local_devices()[0]
        keys = jax.random.split(jax.random.key(0))
        self._operands = [jax.random.normal(key, (size, size), dtype) for key in keys]
        self._product = jax.jit(jnp.matmul)
        self.flops = 2.0 * size**3

    def __call__(self) -> float:
        """Runs one product to its end."""
        jax.block_until_ready(self._product(*self._operands))
        return 0.0

    def peak_bytes(self) -> int | None:
        """Not of interest."""
        return None


class Nothing:
    """A case whose result is known once it is built."""

    parameters = 0
    flops = 0.0

    def __call__(self) -> float:
        """Does nothing."""
        return 0.0

    def peak_bytes(self) -> int | None:
        """Not of interest."""
        return None


def device_info() -> dict[str, Any]:
    """Kind and peak of the device that the cases run on."""
    device = jax.local_devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "peak_flops": peak_flops(device.device_kind),
    }
