"""Counts from compiled programs agree with arithmetic."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from gpst_jax.compilation import hlo, hlo_cost
from gpst_jax.config import MeshConfig
from gpst_jax.parallel import sharding


def _compiled(function, *shapes, **options):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return hlo.parse(jax.jit(function, **options).lower(*arguments).compile().as_text())


def test_products_in_a_loop_are_multiplied_by_its_trip_count():
    def function(x, kernels):
        return jax.lax.scan(lambda x, kernel: (jnp.tanh(x @ kernel), None), x, kernels)[0]

    module = _compiled(function, (48, 64), (11, 64, 64))
    assert hlo_cost.matmul_flops(module) == 11 * 2 * 48 * 64 * 64


_LOOP = """\
HloModule test

%body (p: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {{
  %p = (s32[], f32[8,8]{{1,0}}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %by = s32[] constant({step})
  %next = s32[] add(%i, %by)
  %x = f32[8,8]{{1,0}} get-tuple-element(%p), index=1
  %y = f32[8,8]{{1,0}} dot(%x, %x), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
  ROOT %out = (s32[], f32[8,8]{{1,0}}) tuple(%next, %y)
}}

%condition (p: (s32[], f32[8,8])) -> pred[] {{
  %p = (s32[], f32[8,8]{{1,0}}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %limit = s32[] constant(16)
  ROOT %less = pred[] compare(%i, %limit), direction={direction}
}}

ENTRY %main (x: f32[8,8]) -> f32[8,8] {{
  %x = f32[8,8]{{1,0}} parameter(0)
  %first = s32[] constant({start})
  %copy = s32[] copy(%first)
  %init = (s32[], f32[8,8]{{1,0}}) tuple(%copy, %x)
  %loop = (s32[], f32[8,8]{{1,0}}) while(%init), condition=%condition, body=%body
  ROOT %out = f32[8,8]{{1,0}} get-tuple-element(%loop), index=1
}}
"""


@pytest.mark.parametrize(
    ("start", "step", "trips"), [(0, 1, 16), (1, 1, 15), (1, 2, 8), (16, 1, 0)]
)
def test_trip_count_follows_start_and_step(start, step, trips):
    # For several slices the TPU compiler peels the first iteration, so the loop starts at 1.
    module = hlo.parse(_LOOP.format(start=start, step=step, direction="LT"))
    assert hlo_cost.matmul_flops(module) == trips * 2 * 8**3


def test_a_loop_that_does_not_count_upwards_is_an_error():
    module = hlo.parse(_LOOP.format(start=0, step=1, direction="GT"))
    with pytest.raises(hlo.HloError, match="loop"):
        hlo_cost.matmul_flops(module)


def test_products_of_a_gradient():
    def function(x, kernel):
        return jax.grad(lambda kernel: jnp.tanh(x @ kernel).sum())(kernel)

    assert hlo_cost.matmul_flops(_compiled(function, (48, 64), (64, 32))) == 2 * 2 * 48 * 64 * 32


_CONVOLUTION = """\
HloModule test

ENTRY %main (a: f32[8,32,16], b: f32[8,16,24]) -> f32[8,32,24] {{
  %a = f32[8,32,16]{{2,1,0}} parameter(0)
  %b = f32[8,16,24]{{2,1,0}} parameter(1)
  ROOT %c = f32[8,32,24]{{2,1,0}} convolution(%a, %b), window={{{window}}}, dim_labels=0bf_0io->0bf
}}
"""


def test_batched_product_as_the_tpu_compiler_writes_it():
    # The batch axis of a matmul becomes a spatial one, each output with one tap inside the input.
    text = _CONVOLUTION.format(window="size=8 stride=7 pad=0_0 lhs_dilate=8")
    assert hlo_cost.matmul_flops(hlo.parse(text)) == 2 * 8 * 32 * 16 * 24


def test_plain_convolution_counts_only_taps_inside_the_input():
    # Three taps over 8 positions with padding 1: the two ends see two taps.
    text = _CONVOLUTION.format(window="size=3 pad=1_1").replace("f32[8,16,24]", "f32[3,16,24]")
    assert hlo_cost.matmul_flops(hlo.parse(text)) == 2 * (3 * 8 - 2) * 32 * 16 * 24


_KERNEL = """\
HloModule test

ENTRY %main (i: s32[{rows}2,128], q: bf16[{rows}4,256,64], l: f32[{rows}4,256]) -> bf16[{rows}4,256,64] {{
  %i = s32[{rows}2,128]{{1,0}} parameter(0)
  %l = f32[{rows}4,256]{{1,0}} parameter(2)
  %q = bf16[{rows}4,256,64]{{2,1,0}} parameter(1)
  ROOT %splash_fwd.1 = bf16[{rows}4,256,64]{{2,1,0}} custom-call(%i, %i{places}, %l, %q), custom_call_target="tpu_custom_call"
}}
"""  # noqa: E501


@pytest.mark.parametrize(("rows", "count"), [("3,", 3), ("", 1)])
@pytest.mark.parametrize(("places", "share"), [(", %i", 0.5), ("", 1)])
def test_kernels_count_by_their_query_and_mask(rows, count, places, share):
    module = hlo.parse(_KERNEL.format(rows=rows, places=places))
    assert hlo_cost.kernel_flops(module) == 2 * 2 * count * 4 * 256**2 * share * 64


def test_collectives_and_bytes_sent_per_device():
    mesh = sharding.make_mesh(MeshConfig(2, 4, 1))

    def place(*axes):
        return NamedSharding(mesh, PartitionSpec(*axes))

    def function(x):
        return jax.lax.with_sharding_constraint(x, place())

    with jax.set_mesh(mesh):
        module = _compiled(function, (64, 128), in_shardings=(place("fsdp"),))
    (gather,) = hlo_cost.transfers(module)
    assert gather.kind == "all-gather"
    assert gather.devices == (0, 1, 2, 3)
    assert gather.bytes == 3 / 4 * 64 * 128 * 4

    with jax.set_mesh(mesh):
        module = _compiled(
            lambda x: x.sum(axis=0), (64, 128), in_shardings=(place(("replica", "fsdp")),)
        )
    (reduce,) = hlo_cost.transfers(module)
    assert reduce.kind == "all-reduce"
    assert sorted(reduce.devices) == list(range(8))
    assert reduce.bytes == 2 * 7 / 8 * 128 * 4


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("{{0,2},{1,3}}", [0, 2]),
        ("[2,4]<=[8]", [0, 1, 2, 3]),
        ("[4,2]<=[2,4]T(1,0)", [0, 4]),
        ("mesh['a'=2,'b'=4] {'b'}", [0, 1, 2, 3]),
        ("mesh['a'=2,'b'=4] {'a'}", [0, 4]),
        ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", [0, 4]),
    ],
)
def test_replica_groups(text, group):
    assert hlo_cost.first_group(text) == group


def test_traffic_of_a_slice_is_what_it_touches():
    def function(table, start):
        return jax.lax.dynamic_slice_in_dim(table, start[0].astype(jnp.int32), 2)

    module = _compiled(function, (1000, 256), (1,))
    assert hlo_cost.memory_bytes(module) < 10 * 2 * 256 * 4


def test_an_update_in_place_writes_what_it_replaces_and_reads_nothing_of_it():
    text = """
%fused (stack: f32[12,100], row: f32[1,100], at: s32[]) -> f32[12,100] {
  %stack = f32[12,100]{1,0} parameter(0)
  %row = f32[1,100]{1,0} parameter(1)
  %at = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %update = f32[12,100]{1,0} dynamic-update-slice(%stack, %row, %at, %zero)
}

ENTRY %main (stack: f32[12,100], row: f32[1,100], at: s32[]) -> f32[12,100] {
  %stack = f32[12,100]{1,0} parameter(0)
  %row = f32[1,100]{1,0} parameter(1)
  %at = s32[]{:S(6)} parameter(2)
  ROOT %fusion = f32[12,100]{1,0} fusion(%stack, %row, %at), kind=kLoop, calls=%fused
}
"""
    assert hlo_cost.memory_bytes(hlo.parse(text)) == 2 * 100 * 4


@pytest.mark.parametrize(
    "text", ["", "HloModule empty", "ENTRY %main () -> f32[] {\n  %x = f32[\n}"]
)
def test_invalid_text_is_an_error(text):
    with pytest.raises(hlo.HloError):
        hlo.parse(text)
