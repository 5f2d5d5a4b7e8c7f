"""Cases in JAX: the train step of GPST, the flattened baseline, and plain matrix products."""

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
    """The train step of `gpst_jax.training.step`, as `pretrain` runs it, on one device.

    Args:
        workload: dimensions and optimiser.
        objective: GPST, or a baseline with the same protocol.
        batch: of NumPy arrays.
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
        """Runs one step, waits for it, and returns the loss."""
        self._state, report = self._step(self._state, self._batch)
        jax.block_until_ready(self._state)
        total, count = report.pairs["loss"]
        return float(total / count)

    def peak_bytes(self) -> int | None:
        """Peak device memory; None where the platform has no statistics, as a CPU."""
        return (self.device.memory_stats() or {}).get("peak_bytes_in_use")


def gpst_step(workload: Workload) -> JaxStep:
    """The train step of GPST."""
    return JaxStep(workload, GPSTObjective(workload.config, workload.layout), workload.batch())


def flattened_step(workload: Workload) -> JaxStep:
    """The train step of the flattened decoder with as many parameters as GPST."""
    ours = GPSTObjective(workload.config, workload.layout)
    shapes = jax.eval_shape(ours.init, jax.random.key(0))
    net = flat_net(workload, sum(leaf.size for leaf in jax.tree.leaves(shapes)))
    objective = FlattenedObjective(workload, net)
    return JaxStep(workload, objective, objective.batch())


class Matmul:
    """A square matrix product: the FLOP rate that this device reaches in this run.

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
        """Runs one product and waits for it."""
        jax.block_until_ready(self._product(*self._operands))
        return 0.0

    def peak_bytes(self) -> int | None:
        """Not measured."""
        return None


class Nothing:
    """A placeholder step, for a case whose result is computed when it is built."""

    parameters = 0
    flops = 0.0

    def __call__(self) -> float:
        """Does nothing."""
        return 0.0

    def peak_bytes(self) -> int | None:
        """Not measured."""
        return None


def device_info() -> dict[str, Any]:
    """Platform, kind and peak FLOP/s of the device that the cases run on."""
    device = jax.local_devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "peak_flops": peak_flops(device.device_kind),
    }
