"""The train step compiled ahead of time for TPU topologies."""

import dataclasses
import importlib.util
import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from data_pipeline.tokens import TokenLayout
from gpst_jax.compilation import aot, hlo, hlo_cost
from gpst_jax.config import (
    ConfigError,
    DataConfig,
    GPSTConfig,
    MeshConfig,
    RunConfig,
    TransformerConfig,
)
from gpst_jax.models import splash_attention
from gpst_jax.objectives import GPSTObjective
from gpst_jax.parallel import sharding

LAYOUT = TokenLayout(100, 4, 64)
CONFIG = RunConfig(
    name="tiny",
    model=GPSTConfig(
        TransformerConfig(512, 3, 4, 1024),
        TransformerConfig(256, 3, 4, 512),
        dtype="bfloat16",
        remat="none",
        attention="xla",
    ),
    data=DataConfig(batch_size=256, sequence_length=256, frame_budget=128, crop_seconds=1.5),
    mesh=MeshConfig(-1, 16, 1),
)


needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the extra aot is not installed"
)


@pytest.fixture(scope="module")
def compiled():
    """The tiny run for one v5e:4x4 slice."""
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, batch_size=32))
    return aot.compile_step(GPSTObjective(config, LAYOUT), config, "v5e:4x4")


@needs_compiler
@pytest.mark.timeout(900)
def test_compiler_agrees_with_the_formula(compiled):
    report, _ = compiled
    flops = report.flops_per_step
    # Without remat and custom kernels the compiler's count is complete. The formula halves causal
    # attention; blocks of queries compute a little more.
    assert flops["kernels"] == 0
    assert flops["compiler"] == pytest.approx(flops["formula"], rel=0.05)


@needs_compiler
@pytest.mark.timeout(900)
def test_parameters_are_gathered_by_layer(compiled):
    report, _ = compiled
    found = {(item.kind, item.axis, item.network): item for item in report.collectives}
    gather = found["all-gather", "fsdp", "ici"]
    # Forward and backward each gather 15/16 of every matrix in bfloat16.
    assert gather.bytes == pytest.approx(2 * 2 * 15 / 16 * report.parameters, rel=0.2)
    assert gather.count > 2 * 3 * 7  # layer by layer: seven matrices, three layers, two passes
    assert {item.network for item in report.collectives} == {"ici"}


@needs_compiler
@pytest.mark.timeout(900)
def test_memory_and_roofline_are_consistent(compiled):
    report, text = compiled
    memory = report.hbm_bytes_per_chip
    assert report.fits
    assert memory.total == memory.arguments + memory.temporaries + memory.outputs
    assert memory.total < memory.capacity
    # Parameters and both moments of AdamW, a sixteenth each.
    assert memory.arguments == pytest.approx(3 * 4 * report.parameters / 16, rel=0.1)
    assert report.roofline_step_s == max(report.roofline_s.values())
    assert 0 < report.mfu_ceiling < 1
    assert "ENTRY" in text
    assert not any(isinstance(v, float) and math.isnan(v) for v in aot.to_json(report).values())


@needs_compiler
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("pattern", "topology", "slices"),
    [
        ("flat", "v5e:4x4", 1),
        ("delay", "v5e:4x4", 1),
        ("parallel", "v5e:4x4", 1),
        ("flat", "v6e:4x4", 2),
        ("delay", "v6e:4x4", 2),
        ("parallel", "v6e:4x4", 2),
    ],
)
def test_codebook_patterns_compile(pattern, topology, slices):
    nets = TransformerConfig(256, 2, 2, 512), TransformerConfig(128, 1, 2, 256)
    # Attention by the compiler is counted; its kernel for TPUs is what a run has.
    attention = "xla" if slices == 1 else "auto"
    config = RunConfig(
        "tiny",
        GPSTConfig(*nets, dtype="bfloat16", attention=attention, pattern=pattern),
        DataConfig(batch_size=64, sequence_length=256, frame_budget=128, crop_seconds=1.5),
        mesh=MeshConfig(slices, 16, 1),
    )
    report, _ = aot.compile_step(GPSTObjective(config, LAYOUT), config, topology, slices)
    assert report.fits
    if attention == "xla":
        flops = report.flops_per_step
        assert flops["compiler"] == pytest.approx(flops["formula"], rel=0.1)


@needs_compiler
@pytest.mark.parametrize("causal", [True, False])
def test_attention_kernels_count_visible_positions(causal):
    mesh = sharding.make_mesh(MeshConfig(1, 1, 1), aot.topology_devices("v5e:2x2")[:1])
    rows, length, heads, width = 3, 256, 4, 64
    wide = jax.ShapeDtypeStruct((rows, length, heads, width), jnp.bfloat16)
    segments = jax.ShapeDtypeStruct((rows, length), jnp.int32)

    def gradients(query, key, value, segments):
        def total(*arrays):
            return (
                splash_attention.attend(*arrays, segments, causal=causal).astype(jnp.float32).sum()
            )

        return jax.grad(total, argnums=(0, 1, 2))(query, key, value)

    with jax.set_mesh(mesh):
        jitted = jax.jit(gradients, in_shardings=NamedSharding(mesh, PartitionSpec()))
        text = jitted.lower(wide, wide, wide, segments).compile().as_text()
    seen = length * length / (2 if causal else 1)
    # Two products forward and five backward.
    assert hlo_cost.kernel_flops(hlo.parse(text)) == 7 * 2 * rows * heads * seen * width


@pytest.mark.parametrize("topology", ["v5e:3x7", "v5p:2x2", "v6e:32x32", "v9:4x4", "v5e"])
def test_unknown_topology_is_one_line(topology):
    with pytest.raises(ConfigError, match=f"topology '{topology}': .*") as error:
        aot.topology_devices(topology)
    assert "\n" not in str(error.value)


@needs_compiler
@pytest.mark.parametrize("topology", ["v5e:1x1", "v5e:4x8", "v6e:16x16", "v5p:2x4x4", "v4:4x4x4"])
def test_existing_topologies_are_known_to_the_compiler(topology, capfd):
    sides = topology.partition(":")[2].split("x")
    assert len(aot.topology_devices(topology)) % math.prod(map(int, sides)) == 0
    assert capfd.readouterr().err == ""


def test_out_of_memory_message():
    message = (
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 19.91G of 15.75G hbm. "
        "Exceeded hbm capacity by 4.16G."
    )
    base = {"topology": "v5e:4x4", "num_slices": 1, "chips": 16, "mesh": {}, "parameters": 1}
    report = aot._out_of_memory(base, message, 1e12)
    assert not report.fits
    assert report.overrun_bytes == pytest.approx(4.16 * 2**30, rel=1e-3)
    assert aot.to_json(report)["roofline_step_s"] is None


@needs_compiler
@pytest.mark.parametrize(("topology", "slices"), [("v5p:4x8x8", 1), ("v5p:4x8x8", 2)])
def test_meshes_that_split_an_axis_of_the_torus(topology, slices):
    devices = aot.topology_devices(topology, slices)
    mesh = sharding.make_mesh(MeshConfig(replica=-1, fsdp=16), devices)
    assert mesh.devices.shape == (len(devices) // 16, 16, 1)
    assert len({device.id for device in mesh.devices.flat}) == 256 * slices
    for row in mesh.devices[:, :, 0]:  # parameters are never gathered between slices
        assert len({getattr(device, "slice_index", 0) for device in row}) == 1
