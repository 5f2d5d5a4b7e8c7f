"""Forward FLOPs of hierarchical and flattened models: by formula, and of the compiled program.

The formula follows GPST's cost analysis. Hierarchical, over U units and T frames of Q codes, with
m weights in the matrices of a transformer (g: global, l: local):

    linear     2 m_g (U + T + 2) + 2 m_l (T + 1) Q
    attention  2 N_g D_g (U + T + 2)^2 + 4 N_l D_l (T + 1) Q^2

and flattened, where every code is a position:  2 m (U + T Q + 2) + 2 N D (U + T Q + 2)^2.
Causal attention over rows counts half of the square, attention over the Q codes all of it.
Embeddings, heads and the projector are excluded: both models have the same heads and predictions.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gpst_jax.benchmarks.flattened import FlattenedObjective, flat_length, flat_net
from gpst_jax.benchmarks.workload import Workload
from gpst_jax.compilation import hlo, hlo_cost
from gpst_jax.config import GPSTConfig, TransformerConfig
from gpst_jax.objectives import GPSTObjective


def compare(workload: Workload) -> dict[str, Any]:
    """Formula and compiled FLOPs of one row, by model.

    Returns:
        `hierarchical`, `flattened` (with as many parameters) and `flattened_global_layers` (the
        global transformer alone, flattened), each `{formula, compiled}` in FLOPs; and `saving`,
        the ratio of each flattened model to the hierarchical one: `{name: {formula, compiled}}`.
    """
    data = dataclasses.replace(
        workload.config.data,
        batch_size=1,
        sequence_length=workload.units + workload.frames + 2,
        frame_budget=workload.frames + 1,
    )
    config = dataclasses.replace(workload.config, data=data)
    workload = dataclasses.replace(workload, config=config).with_model(attention="xla")
    ours = GPSTObjective(workload.config, workload.layout)
    shapes = jax.eval_shape(ours.init, jax.random.key(0))
    equal = flat_net(workload, sum(leaf.size for leaf in jax.tree.leaves(shapes)))
    counts = {"hierarchical": _hierarchical(workload, ours)}
    counts["flattened"] = _flattened(workload, equal)
    counts["flattened_global_layers"] = _flattened(
        workload, workload.config.model_as(GPSTConfig).global_net
    )
    base = counts["hierarchical"]
    saving = {
        name: {kind: count[kind] / base[kind] for kind in base}
        for name, count in counts.items()
        if name != "hierarchical"
    }
    return counts | {"saving": saving}


def _hierarchical(workload: Workload, objective: GPSTObjective) -> dict[str, float]:
    model, depth = workload.config.model_as(GPSTConfig), workload.layout.num_codebooks
    length, frames = workload.units + workload.frames + 2, workload.frames + 1
    wide, narrow = model.global_net, model.local_net
    formula = 2.0 * _weights(workload, wide) * length
    formula += 2.0 * _weights(workload, narrow) * frames * depth
    formula += 2.0 * wide.num_layers * wide.d_model * length**2
    formula += 4.0 * narrow.num_layers * narrow.d_model * frames * depth**2

    def forward(params, batch):
        net = objective.model(params)
        names = ("tokens", "positions", "streams", "segment_ids")
        hidden = net.hidden(*(batch[name] for name in names))
        picked = jnp.take_along_axis(hidden, batch["frame_index"][:, :, None], axis=1)[0]
        return net.local_hidden(picked, batch["frames"][0])

    return {"formula": formula, "compiled": _compiled(forward, objective)}


def _flattened(workload: Workload, net: TransformerConfig) -> dict[str, float]:
    objective = FlattenedObjective(workload, net)
    length = flat_length(workload)
    formula = 2.0 * _weights(workload, net) * length
    formula += 2.0 * net.num_layers * net.d_model * length**2

    def forward(params, batch):
        return objective.model(params).hidden(batch["tokens"])

    return {"formula": formula, "compiled": _compiled(forward, objective)}


def _weights(workload: Workload, net: TransformerConfig) -> float:
    matrices = 3 if workload.config.model_as(GPSTConfig).block == "modern" else 2
    return net.num_layers * (4 * net.d_model**2 + matrices * net.d_model * net.d_ff)


def _compiled(forward: Any, objective: GPSTObjective | FlattenedObjective) -> float:
    """Matmul FLOPs of the compiled program, loops multiplied by their trip counts."""
    params = jax.eval_shape(objective.init, jax.random.key(0))
    # The count does not depend on backend optimisation: skip it to compile faster.
    options: dict[str, Any] = {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    }
    lowered = jax.jit(forward).lower(params, objective.batch_spec())
    program = lowered.compile(options).as_text() or ""
    return hlo_cost.matmul_flops(hlo.parse(program))
