"""Cases in JAX: the train step of GPST, the flattened baseline, and plain matrix products."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from gpst_jax.benchmarks.flattened import FlattenedObjective, flat_net
from gpst_jax.benchmarks.workload import Workload
from gpst_jax.config import GPSTConfig
from gpst_jax.models import attention
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


class Attention:
    """Causal attention of one global layer, forward and backward, within the segments of a batch.

    Args:
        workload: batch size B, row length L, heads and dtype.
        implementation: of `gpst_jax.models.attention.attend`.

    Attributes:
        difference: of the output and the gradients of one row from XLA's in float32, as the norm
            of the difference over the norm.
        flops: 6 B L^2 D, as `GPSTObjective.flops` counts a layer.
    """

    parameters = 0

    def __init__(self, workload: Workload, implementation: str):
        model, data = workload.config.model_as(GPSTConfig), workload.config.data
        net, dtype = model.global_net, jnp.dtype(model.dtype)
        keys = jax.random.split(jax.random.key(0), 4)
        heads = (net.num_heads, net.kv_heads, net.kv_heads, net.num_heads)
        shape = (data.batch_size, data.sequence_length)
        self._arrays = [
            jax.random.normal(key, (*shape, count, net.head_dim), dtype)
            for key, count in zip(keys, heads, strict=True)
        ]
        self._segments = jnp.asarray(workload.batch()["segment_ids"])
        self._run = jax.jit(functools.partial(_attention_gradients, implementation))
        self.flops = 6.0 * data.batch_size * data.sequence_length**2 * net.d_model
        one = [x[:1] for x in self._arrays]
        exact = _attention_gradients(
            "xla", self._segments[:1], *(x.astype(jnp.float32) for x in one)
        )
        found = self._run(self._segments[:1], *one)
        self.difference = max(
            float(jnp.linalg.norm(a.astype(jnp.float32) - b) / jnp.linalg.norm(b))
            for a, b in zip(found, exact, strict=True)
        )

    def __call__(self) -> float:
        """Runs once and waits; returns 0, as nothing is trained."""
        jax.block_until_ready(self._run(self._segments, *self._arrays))
        return 0.0

    def peak_bytes(self) -> int | None:
        """Peak device memory; None where the platform has no statistics, as a CPU."""
        return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def _attention_gradients(
    implementation: str,
    segments: jax.Array,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    weights: jax.Array,
) -> tuple[jax.Array, ...]:
    """Output (B, L, H, D/H), and gradients of queries, keys and values for output gradients."""

    def attend(query, key, value):
        return attention.attend(
            query, key, value, segment_ids=segments, implementation=implementation
        )

    output, pullback = jax.vjp(attend, query, key, value)
    return output, *pullback(weights)


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
