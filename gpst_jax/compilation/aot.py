"""Compiles the train step ahead of time for a TPU topology and analyses the program.

The TPU compiler ships in the `libtpu` wheel and runs on any Linux x86-64 machine, so memory,
collectives and FLOPs are those of the program that the pod would run. Times are not measured but a
roofline from the chip table.
"""

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from data_pipeline.runtime.libraries import WITHOUT_TPU
from gpst_jax.compilation import hlo, hlo_cost, traffic
from gpst_jax.config import ConfigError, RunConfig
from gpst_jax.objectives import Objective
from gpst_jax.parallel import chips, sharding, topologies
from gpst_jax.training.step import abstract_state, make_train_step

# libtpu must neither query a TPU VM's metadata nor lock devices.
_ENVIRONMENT = WITHOUT_TPU | {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of HBM on one chip; `total` excludes outputs aliased to (donated) arguments."""

    arguments: int
    temporaries: int
    outputs: int
    total: int
    capacity: int


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind over the same mesh axes.

    Attributes:
        kind: XLA's name.
        axis: mesh axes joined by `+`.
        network: `ici` within a slice, `dcn` between slices.
        count: executions in a step.
        bytes: sent by one chip in a step.
        seconds: `bytes` over the bandwidth of the links that the axes span.
    """

    kind: str
    axis: str
    network: str
    count: int
    bytes: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Report:
    """Analysis of the compiled train step.

    FLOPs are of one step on all chips. `compiler` counts the matrix products in the emitted
    program, `kernels` those in custom kernels; their excess over `formula` is recomputation.
    `traffic_by_cause` are bytes of HBM of one chip, largest first.
    """

    topology: str
    num_slices: int
    chips: int
    mesh: dict[str, int]
    parameters: int
    fits: bool
    overrun_bytes: int
    hbm_bytes_per_chip: Memory
    flops_per_step: dict[str, float]
    memory_traffic_bytes: float
    traffic_by_cause: dict[str, float]
    collectives: tuple[Collective, ...]
    roofline_s: dict[str, float]
    roofline_step_s: float
    bound: str
    mfu_ceiling: float


def topology_devices(topology: str, num_slices: int = 1) -> Sequence[Any]:
    """Device descriptions of a topology such as `v5e:16x16`, to build a mesh from.

    Raises:
        ConfigError: libtpu is missing, or there is no such slice.
    """
    if reason := topologies.refusal(topology):
        raise ConfigError(f"topology {topology!r}: {reason}")
    from jax.experimental.topologies import get_topology_desc

    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        hosts = {"chips_per_host_bounds": (1, 1, 1)} if topology.endswith(":1x1") else {}
        return get_topology_desc(
            platform="tpu", topology_name=topology, num_slices=num_slices, **hosts
        ).devices
    except (RuntimeError, ValueError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        if "libtpu" in reason.lower() and "not" in reason.lower():
            raise ConfigError(
                "the TPU compiler is not installed: pip install gpst_jax[aot] (Linux x86-64)"
            ) from error
        raise ConfigError(
            f"topology {topology!r} is unknown to the TPU compiler ({reason}); valid examples: "
            "v5e:16x16, v6e:8x8, v5p:4x4x8"
        ) from error


def compile_step(
    objective: Objective, config: RunConfig, topology: str, num_slices: int = 1
) -> tuple[Report, str]:
    """Compiles the train step of `config` for a topology.

    Args:
        objective: of `config`.
        config: of the run; `mesh.replica` counts the replicas of all slices.
        topology: of one slice.
        num_slices: how many such slices are used.

    Returns:
        The report, and the HLO text of the program (empty when it does not fit).

    Raises:
        ConfigError: an unknown topology, or a mesh that does not fit its devices.
    """
    devices = topology_devices(topology, num_slices)
    chip = chips.find_chip(devices[0].device_kind)
    if chip is None or not chip.hbm_bytes:
        raise ConfigError(
            f"topology {topology!r}: {devices[0].device_kind} is not in the chip table"
        )
    mesh = sharding.make_mesh(config.mesh, devices)
    flops = objective.flops()
    with jax.set_mesh(mesh):
        state = abstract_state(objective, config, mesh)
        lowered = make_train_step(objective, config, mesh).lower(state, objective.batch_spec())
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        base = {
            "topology": topology,
            "num_slices": num_slices,
            "chips": len(devices),
            "mesh": dict(mesh.shape),
            "parameters": parameters,
        }
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            return _out_of_memory(base, str(error), sum(flops.values())), ""
    text = compiled.as_text() or ""
    return _analyse(base, compiled, text, mesh, chip, flops), text


def _analyse(base, compiled, text: str, mesh, chip: chips.Chip, flops: dict[str, float]) -> Report:
    program = hlo.parse(text)
    stats = compiled.memory_analysis()
    outputs = stats.output_size_in_bytes - stats.alias_size_in_bytes
    total = stats.argument_size_in_bytes + stats.temp_size_in_bytes + outputs
    memory = Memory(
        arguments=stats.argument_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        outputs=outputs,
        total=total,
        capacity=int(chip.hbm_bytes),
    )
    products = hlo_cost.matmul_flops(program)
    kernels = hlo_cost.kernel_flops(program)
    by_cause = {str(cause): moved for cause, moved in traffic.by_cause(program).items()}
    moved = sum(by_cause.values())
    collectives = _collectives(program, mesh, chip, base["num_slices"])
    roofline = {
        "compute": (products + kernels) / chip.flops,
        "hbm": moved / chip.hbm_bytes_per_s,
        "ici": sum(c.seconds for c in collectives if c.network == "ici"),
        "dcn": sum(c.seconds for c in collectives if c.network == "dcn"),
    }
    bound = max(roofline, key=roofline.__getitem__)
    formula, devices = sum(flops.values()), base["chips"]
    overrun = max(total - memory.capacity, 0)
    return Report(
        **base,
        fits=overrun == 0,
        overrun_bytes=overrun,
        hbm_bytes_per_chip=memory,
        flops_per_step={
            "formula": formula,
            "compiler": products * devices,
            "kernels": kernels * devices,
        },
        memory_traffic_bytes=moved,
        traffic_by_cause=by_cause,
        collectives=collectives,
        roofline_s=roofline,
        roofline_step_s=roofline[bound],
        bound=bound,
        mfu_ceiling=formula / (devices * chip.flops * roofline[bound]),
    )


def _out_of_memory(base: dict[str, Any], message: str, formula: float) -> Report:
    """The report of a program that is out of HBM; ConfigError for other compiler errors."""
    used = re.search(r"Used ([\d.]+)([KMG]?) of ([\d.]+)([KMG]?)i?B? hbm", message)
    if used is None:
        raise ConfigError(f"the TPU compiler failed: {message[:2000]}")
    total = round(float(used.group(1)) * _UNITS[used.group(2)])
    capacity = round(float(used.group(3)) * _UNITS[used.group(4)])
    unknown = float("nan")
    return Report(
        **base,
        fits=False,
        overrun_bytes=total - capacity,
        hbm_bytes_per_chip=Memory(0, 0, 0, total, capacity),
        flops_per_step={"formula": formula, "compiler": unknown, "kernels": unknown},
        memory_traffic_bytes=unknown,
        traffic_by_cause={},
        collectives=(),
        roofline_s={},
        roofline_step_s=unknown,
        bound="memory",
        mfu_ceiling=unknown,
    )


def _collectives(
    program: hlo.Module, mesh: jax.sharding.Mesh, chip: chips.Chip, num_slices: int
) -> tuple[Collective, ...]:
    devices = mesh.devices.reshape(-1)

    def route(transfer: hlo_cost.Transfer) -> tuple[str, str, str, int]:
        if transfer.host:
            return transfer.kind, mesh.axis_names[0], "dcn", 0
        coordinates = np.array(np.unravel_index(transfer.devices, mesh.devices.shape))
        axes = [
            name
            for name, along in zip(mesh.axis_names, coordinates, strict=True)
            if len(set(along.tolist())) > 1
        ]
        coords = np.array([devices[index].coords for index in transfer.devices])
        dimensions = sum(len(set(column)) > 1 for column in coords.T.tolist())
        return transfer.kind, "+".join(axes), "ici", max(dimensions, 1)

    result = []
    transfers = hlo_cost.transfers(program, num_slices)
    for (kind, axis, network, dimensions), count, sent in hlo_cost.sum_up(transfers, route):
        # Both directions of every torus dimension that the group spans carry traffic; a
        # permutation between neighbours uses one link.
        links = 1 if kind == "collective-permute" else 2 * dimensions
        rate = chip.dcn_bytes_per_s if network == "dcn" else links * chip.link_bytes_per_s
        result.append(Collective(kind, axis, network, count, sent, sent / rate))
    return tuple(result)


def to_json(report: Report) -> dict[str, Any]:
    """The report as `--json_out` writes it; unknown values are null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [plain(inner) for inner in value]
        return None if isinstance(value, float) and math.isnan(value) else value

    return plain(dataclasses.asdict(report))
