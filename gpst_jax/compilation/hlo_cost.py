"""Cost analysis of a compiled program: matmul FLOPs, memory traffic and collectives.

XLA's own cost analysis counts a loop body once and custom kernels not at all. This one walks the
emitted program, multiplies by trip counts and counts custom kernels separately.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator

import numpy as np

from gpst_jax.compilation.hlo import HloError, Instruction, Module, Shape

Computation = dict[str, Instruction]

_COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# Opcodes without memory traffic: bookkeeping, control flow, ends of asynchronous operations.
_FREE = (
    *("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "iota", "after-all"),
    *("while", "conditional", "call", "partition-id", "replica-id", "opt-barrier"),
    *("send", "send-done", "recv", "recv-done"),
)
_FREE_CALLS = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound")


@dataclasses.dataclass(frozen=True)
class Transfer:
    """One collective of the program.

    Attributes:
        kind: `all-gather`, `reduce-scatter`, `all-reduce`, `all-to-all`, `collective-permute`.
        devices: partitions of one replica group; of a permutation, one source-target pair.
        count: executions in a step.
        bytes: sent by one device in all of them.
        host: whether it crosses slices over the data-centre network (DCN).
    """

    kind: str
    devices: tuple[int, ...]
    count: int
    bytes: float
    host: bool = False


def matmul_flops(module: Module) -> float:
    """FLOPs of the matrix products (dots and convolutions) on one device."""
    total = 0.0
    for instruction, computation, times, _ in module.walk():
        if instruction.opcode == "dot":
            total += times * _dot_flops(instruction, computation)
        elif instruction.opcode == "convolution":
            total += times * _convolution_flops(instruction, computation)
    return total


def kernel_flops(module: Module) -> float:
    """FLOPs of the splash attention kernels on one device; a causal mask halves them.

    The forward kernel has 2 products of (L, L, D/H) per head, the fused backward kernel 5.
    """
    total = 0.0
    for instruction, computation, times, _ in module.walk():
        if 'custom_call_target="tpu_custom_call"' not in instruction.attributes:
            continue
        products = 2 if "_fwd" in instruction.name else 5 if "_dkv" in instruction.name else 0
        if not instruction.name.startswith("splash") or not products:
            raise HloError(f"unknown kernel {instruction.name}: its FLOPs are not counted")
        # The query is (batch, heads, L, D/H), or (heads, L, D/H) for a batch of one per device: the
        # first floating-point operand of the highest rank.
        shapes = _operand_shapes(instruction, computation)
        floats = [shape for shape in shapes if shape.dtype in ("bf16", "f32")]
        query = max(floats, key=lambda shape: len(shape.dims))
        *batch, length, width = query.dims
        # Beside the segment ids of queries and keys, only a causal mask adds integer operands.
        causal = sum(shape.dtype == "s32" for shape in shapes) > 2
        visible = length**2 / 2 if causal else length**2
        total += times * products * 2 * math.prod(batch) * visible * width
    return total


def _operand_shapes(instruction: Instruction, computation: Computation) -> list[Shape]:
    return [shape for name in instruction.operands for shape in computation[name].shapes]


def _dot_flops(instruction: Instruction, computation: Computation) -> float:
    left = computation[instruction.operands[0]].shapes[0]
    axes = re.findall(r"\d+", instruction.attribute("lhs_contracting_dims") or "")
    return 2.0 * instruction.shapes[0].size * math.prod(left.dims[int(axis)] for axis in axes)


def _convolution_flops(instruction: Instruction, computation: Computation) -> float:
    """XLA emits batched matmuls as convolutions; only taps inside the input are counted."""
    left, right = (computation[name].shapes[0] for name in instruction.operands)
    labels = instruction.attribute("dim_labels")
    if labels is None:
        raise HloError(f"convolution {instruction.name}: no dim_labels")
    inputs, rest = labels.split("_")
    kernel, outputs = rest.split("->")
    window = _window(instruction.attribute("window") or "{}")
    groups = int(instruction.attribute("feature_group_count") or 1)
    batch_groups = int(instruction.attribute("batch_group_count") or 1)
    flops = 2.0 * left.dims[inputs.index("b")] / batch_groups
    flops *= left.dims[inputs.index("f")] / groups * right.dims[kernel.index("o")]
    for spatial in sorted(set(inputs) - {"b", "f"}):
        axis = int(spatial)
        flops *= _valid_taps(
            left.dims[inputs.index(spatial)],
            right.dims[kernel.index(spatial)],
            instruction.shapes[0].dims[outputs.index(spatial)],
            {name: values[axis] for name, values in window.items()},
        )
    return flops


def _window(text: str) -> dict[str, list[tuple[int, ...]]]:
    fields = {}
    for name, value in re.findall(r"(\w+)=([\dx_\-]+)", text):
        fields[name] = [tuple(int(n) for n in part.split("_")) for part in value.split("x")]
    return fields


def _valid_taps(size: int, taps: int, outputs: int, window: dict[str, tuple[int, ...]]) -> int:
    stride = window.get("stride", (1,))[0]
    low = window.get("pad", (0, 0))[0]
    left_dilation = window.get("lhs_dilate", (1,))[0]
    right_dilation = window.get("rhs_dilate", (1,))[0]
    at = np.arange(outputs)[:, None] * stride - low + np.arange(taps)[None] * right_dilation
    inside = (at >= 0) & (at < (size - 1) * left_dilation + 1) & (at % left_dilation == 0)
    return int(inside.sum())


def memory_bytes(module: Module) -> float:
    """Bytes that one device reads from and writes to HBM, from operand and result shapes.

    Buffers in on-chip memory are free; slices count only what they touch.
    """
    total = 0.0
    for instruction, computation, times, fused in module.walk():
        if not fused:
            total += times * traffic(instruction, computation, module)
    return total


def traffic(instruction: Instruction, computation: Computation, module: Module) -> float:
    """Bytes of HBM that one execution of an instruction reads and writes."""
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith(("-done", "-update")):
        return 0.0
    target = instruction.attribute("custom_call_target") or ""
    if any(name in target for name in _FREE_CALLS):
        return 0.0
    operands = [computation[name].shapes for name in instruction.operands]
    if opcode in ("copy-start", "slice-start"):
        # copy-start gives (result, operand, context), slice-start (operand, result, context).
        source = operands[0][0]
        moved = instruction.shapes[1 if opcode == "slice-start" else 0]
        return moved.bytes * ((source.space == 0) + (moved.space == 0))
    if opcode in ("dynamic-slice", "slice", "gather"):
        return _hbm(instruction.shapes) + (instruction.bytes if operands[0][0].space == 0 else 0)
    if opcode == "dynamic-update-slice":
        update = operands[1][0]
        return _hbm([update]) + (update.bytes if instruction.shapes[0].space == 0 else 0)
    if opcode == "fusion":
        return _fusion_traffic(
            instruction, operands, module.computations[instruction.called("calls")]
        )
    return _hbm(instruction.shapes) + sum(_hbm(shapes) for shapes in operands)


def _fusion_traffic(instruction: Instruction, operands, body: Computation) -> float:
    users: dict[str, list[Instruction]] = {}
    for inner in body.values():
        for name in inner.operands:
            users.setdefault(name, []).append(inner)
    root = next(inner for inner in body.values() if inner.root)
    roots = [body[name] for name in root.operands] if root.opcode == "tuple" else [root]
    total = 0.0
    for inner in body.values():
        if inner.opcode != "parameter":
            continue
        shapes = operands[int(inner.arguments)]
        uses = users.get(inner.name, [])
        if any(shape.space for shape in shapes):
            continue
        if uses and all(_touches_part(use, inner.name) for use in uses):
            # A result that updates its operand in place reads nothing of it.
            total += sum(
                _part_bytes(use, body)
                for use in uses
                if use.opcode != "dynamic-update-slice" or use not in roots
            )
        else:
            total += _hbm(shapes)
    for shape, result in zip(instruction.shapes, roots, strict=False):
        if shape.space == 0:
            part = result.opcode == "dynamic-update-slice"
            total += _part_bytes(result, body) if part else shape.bytes
    return total


def _touches_part(use: Instruction, name: str) -> bool:
    slices = ("dynamic-slice", "slice", "gather", "dynamic-update-slice")
    return use.opcode in slices and use.operands[0] == name


def _part_bytes(use: Instruction, body: Computation) -> float:
    if use.opcode == "dynamic-update-slice":
        return body[use.operands[1]].bytes
    return use.bytes


def _hbm(shapes) -> float:
    return float(sum(shape.bytes for shape in shapes if shape.space == 0))


def transfers(module: Module, num_slices: int = 1) -> list[Transfer]:
    """The collectives of the program, one entry each.

    A collective split over several fusions has one channel id and is counted once.
    """
    found: dict[tuple[str, str], Transfer] = {}
    scattered = {
        id(body)
        for name, body in module.computations.items()
        if name.startswith("all-reduce-scatter")
    }
    for position, (instruction, computation, times, _) in enumerate(module.walk()):
        transfer = _transfer(
            instruction, computation, times, num_slices, scatter=id(computation) in scattered
        )
        if transfer is None:
            continue
        channel = instruction.attribute("channel_id") or f"none {position}"
        key = (transfer.kind, channel)
        if key not in found or found[key].count < transfer.count:
            found[key] = transfer
    return list(found.values())


def _transfer(
    instruction: Instruction,
    computation: Computation,
    times: int,
    num_slices: int,
    *,
    scatter: bool,
) -> Transfer | None:
    opcode = instruction.opcode.removesuffix("-start")
    inputs = float(sum(shape.bytes for shape in _operand_shapes(instruction, computation)))
    if opcode == "send" and "is_host_transfer=true" in instruction.attributes:
        kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', instruction.attributes)
        if kind is None:
            raise HloError(f"{instruction.name}: a host transfer of unknown type")
        name = kind.group(1).lower().replace("_", "-")
        payload = float(computation[instruction.operands[0]].bytes)
        share = (num_slices - 1) / num_slices * (2 if name == "all-reduce" else 1)
        return Transfer(name, (), times, times * payload * share, host=True)
    if opcode not in _COLLECTIVES:
        return None
    if opcode == "all-reduce" and scatter:
        opcode = (
            "reduce-scatter"  # the TPU compiler fuses an all-reduce with the slice of its result
        )
    if opcode == "collective-permute":
        pairs = re.findall(r"\d+", instruction.attribute("source_target_pairs") or "")
        return Transfer(opcode, (int(pairs[0]), int(pairs[1])), times, times * inputs)
    group = first_group(_replica_groups(instruction))
    parts = len(group)
    if parts == 1:
        return None
    sent = (
        inputs
        * {
            "all-gather": parts - 1.0,
            "all-reduce": 2.0 * (parts - 1) / parts,
            "reduce-scatter": (parts - 1) / parts,
            "all-to-all": (parts - 1) / parts,
        }[opcode]
    )
    return Transfer(opcode, tuple(group), times, times * sent)


def _replica_groups(instruction: Instruction) -> str:
    """The attribute's text; its mesh form has a comma outside brackets."""
    mesh = re.search(
        r"replica_groups=(mesh\[.*?\](?:, device_ids=\(.*?\))? \{.*?\})(?:,|$)",
        instruction.attributes,
    )
    return mesh.group(1) if mesh else instruction.attribute("replica_groups") or ""


def first_group(text: str) -> list[int]:
    """The first replica group, in any of XLA's three forms.

    `{{0,1},{2,3}}`, `[2,8]<=[4,4]T(1,0)`, and `mesh['a'=4,'b'=4] {'a'}`.
    """
    if text.startswith("{"):
        inner = re.search(r"\{([\d,]+)\}", text)
        if inner:
            return [int(n) for n in inner.group(1).split(",")]
    if found := re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?$", text):
        groups, source, order = (_numbers(part) for part in found.groups())
        ids = np.arange(math.prod(source)).reshape(source)
        ids = ids.transpose(order) if order else ids
        return ids.reshape(groups)[0].tolist()
    if found := re.match(r"mesh\[(.*?)\](?:, device_ids=\((.*?)\))? \{(.*)\}$", text):
        axes = [(name, int(size)) for name, size in re.findall(r"'([^']+)'=(\d+)", found.group(1))]
        chosen = re.findall(r"'([^']+)'", found.group(3))
        ids = np.arange(math.prod(size for _, size in axes))
        if found.group(2):
            sizes = re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?$", found.group(2))
            if sizes is None:
                raise HloError(f"replica groups in an unknown form: {text[:200]!r}")
            ids = ids.reshape(_numbers(sizes.group(1)))
            ids = ids.transpose(_numbers(sizes.group(2)) or None)
        ids = ids.reshape([size for _, size in axes])
        index = tuple(slice(None) if name in chosen else 0 for name, _ in axes)
        return ids[index].reshape(-1).tolist()
    raise HloError(f"replica groups in an unknown form: {text[:200]!r}")


def _numbers(text: str | None) -> list[int]:
    return [int(n) for n in text.split(",")] if text else []


def sum_up(
    items: list[Transfer], key: Callable[[Transfer], tuple]
) -> Iterator[tuple[tuple, int, float]]:
    """Sums counts and bytes of the transfers by `key`, sorted by key."""
    groups: dict[tuple, tuple[int, float]] = {}
    for item in items:
        count, sent = groups.get(key(item), (0, 0.0))
        groups[key(item)] = (count + item.count, sent + item.bytes)
    for name in sorted(groups):
        yield name, *groups[name]
