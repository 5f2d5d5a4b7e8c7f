"""Parses optimised HLO text: computations, instructions, shapes and trip counts.

`compiled.as_text()` is the only public view of what the TPU compiler emitted. Only what the cost
analysis needs is parsed; an instruction that does not parse is an error, never skipped.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

_BITS = {"pred": 8, "s4": 4, "u4": 4, "s2": 2, "u2": 2, "token": 0, "opaque": 0}
_SHAPE = re.compile(r"([a-z][a-z0-9]*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_HEADER = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{$")
_ASSIGN = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = ")


class HloError(ValueError):
    """The HLO text has a form that this parser does not support."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array: element type, dimensions, and memory space (0 is HBM)."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes without padding."""
        bits = _BITS.get(self.dtype)
        if bits is None:
            digits = re.search(r"\d+", self.dtype)
            if digits is None:
                raise HloError(f"unknown element type {self.dtype!r}")
            bits = int(digits.group())
        return math.ceil(self.size * bits / 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction; a tuple result has several shapes."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    arguments: str  # the text between the parentheses
    attributes: str  # the text after them
    root: bool

    @property
    def bytes(self) -> int:
        """Bytes of the result."""
        return sum(shape.bytes for shape in self.shapes)

    def attribute(self, name: str) -> str | None:
        """The value of `name=value` up to the next comma outside brackets; None if absent."""
        found = re.search(rf"(?:^|[ ,]){name}=", self.attributes)
        if found is None:
            return None
        rest = self.attributes[found.end() :]
        return rest[: _until_comma(rest)]

    def called(self, name: str) -> str:
        """The computation that attribute `name` names."""
        value = self.attribute(name)
        if value is None:
            raise HloError(f"instruction {self.name}: no {name}")
        return value.removeprefix("%")


@dataclasses.dataclass(frozen=True)
class Module:
    """A program: its computations by name, and the name of the entry computation."""

    computations: dict[str, dict[str, Instruction]]
    entry: str

    def walk(self) -> Iterator[tuple[Instruction, dict[str, Instruction], int, bool]]:
        """Yields (instruction, its computation, executions, whether it is inside a fusion)."""
        yield from self._walk(self.entry, 1, fused=False)

    def _walk(self, computation: str, times: int, *, fused: bool):
        instructions = self.computations[computation]
        for instruction in instructions.values():
            yield instruction, instructions, times, fused
            opcode = instruction.opcode
            if opcode == "while":
                count = self.trip_count(instruction, instructions)
                yield from self._walk(instruction.called("body"), times * count, fused=fused)
            elif opcode == "fusion":
                yield from self._walk(instruction.called("calls"), times, fused=True)
            elif opcode == "call":
                yield from self._walk(instruction.called("to_apply"), times, fused=fused)
            elif opcode == "async-start":
                yield from self._walk(instruction.called("calls"), times, fused=fused)
            elif opcode == "conditional":
                # Any branch may run: counting all of them is an upper bound.
                branches = instruction.attribute("branch_computations") or ""
                for name in ("true_computation", "false_computation"):
                    branches += " " + (instruction.attribute(name) or "")
                for branch in _NAME.findall(branches):
                    yield from self._walk(branch, times, fused=fused)

    def trip_count(self, loop: Instruction, caller: dict[str, Instruction]) -> int:
        """Trip count of a counted loop.

        Args:
            loop: the `while` instruction.
            caller: the computation that contains it and sets the counter's initial value: 1 where
                the compiler has peeled the first iteration.

        Raises:
            HloError: the loop does not step a counter by a constant up to a constant.
        """
        known = re.search(r'known_trip_count[^\d]*"?(\d+)', loop.attributes)
        if known:
            return int(known.group(1))
        condition = self.computations[loop.called("condition")]
        root = next(instruction for instruction in condition.values() if instruction.root)
        comparison = [root]
        # The comparison may be inside a fusion, its constant inside or outside.
        limits = _int_constants(condition)
        if root.opcode == "fusion":
            inside = self.computations[root.called("calls")]
            limits += _int_constants(inside)
            comparison = list(inside.values())
        counters = [
            instruction
            for instruction in condition.values()
            if instruction.opcode == "get-tuple-element" and _is_int(instruction)
        ]
        if len(limits) != 1 or len(counters) != 1:
            raise HloError(
                f"loop {loop.name}: expected one counter and one constant, found constants {limits}"
            )
        if not any(one.attribute("direction") == "LT" for one in comparison):
            raise HloError(f"loop {loop.name}: the condition is not counter < constant")
        index = int(counters[0].attribute("index") or 0)
        first = _element(caller, caller[loop.operands[0]], index)
        body = self.computations[loop.called("body")]
        result = next(instruction for instruction in body.values() if instruction.root)
        following = _element(body, result, index)
        found = (_constant(body, name) for name in following.operands)
        steps = [step for step in found if step is not None]
        start = _constant(caller, first.name)
        if start is None or following.opcode != "add" or len(steps) != 1:
            raise HloError(f"loop {loop.name}: the start or step of its counter is not constant")
        return max(math.ceil((limits[0] - start) / steps[0]), 0)


def parse(text: str) -> Module:
    """Parses the text of a module.

    Raises:
        HloError: no entry computation, or a line that cannot be parsed.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, pending = "", ""
    current: dict[str, Instruction] | None = None

    def flush() -> None:
        if pending and current is not None:
            instruction = _instruction(pending)
            current[instruction.name] = instruction

    for line in text.splitlines():
        header = _HEADER.match(line)
        if header or line == "}":
            flush()
            pending, current = "", None
            if header:
                current = computations.setdefault(header.group(2), {})
                entry = header.group(2) if header.group(1) else entry
        elif current is not None and _ASSIGN.match(line):
            flush()
            pending = line
        else:  # attributes of custom calls span several lines
            pending += line
    if not entry:
        raise HloError("no ENTRY computation")
    return Module(computations, entry)


def _instruction(line: str) -> Instruction:
    found = _ASSIGN.match(line)
    if found is None:
        raise HloError(f"not an instruction: {line[:120]!r}")
    rest = line[found.end() :]
    cut = _closing(rest) + 1 if rest.startswith("(") else rest.find(" ")
    if cut < 0:
        raise HloError(f"an instruction without an opcode: {line[:120]!r}")
    shapes = tuple(_shape(match) for match in _SHAPE.finditer(rest[:cut]))
    rest = rest[cut:].lstrip()
    opcode, _, rest = rest.partition("(")
    end = _closing("(" + rest) - 1
    arguments, attributes = rest[:end], rest[end + 1 :].lstrip(", ")
    return Instruction(
        name=found.group(2),
        opcode=opcode,
        shapes=shapes,
        operands=tuple(_NAME.findall(arguments)),
        arguments=arguments,
        attributes=attributes,
        root=bool(found.group(1)),
    )


def _shape(match: re.Match[str]) -> Shape:
    dims = tuple(int(size) for size in match.group(2).split(",") if size)
    space = re.search(r"S\((\d+)\)", match.group(3) or "")
    return Shape(match.group(1), dims, int(space.group(1)) if space else 0)


def _closing(text: str) -> int:
    """Index of the bracket that closes the one at the start."""
    depth = 0
    for at, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
            if depth == 0:
                return at
    raise HloError(f"brackets do not close: {text[:120]!r}")


def _until_comma(text: str) -> int:
    depth = 0
    for at, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and depth == 0:
            return at
    return len(text)


_COPIES = ("copy", "copy-start", "copy-done", "bitcast", "convert")


def _origin(computation: dict[str, Instruction], name: str) -> Instruction:
    """The instruction that produced a value, looking through copies and tuples."""
    found = computation[name]
    while found.opcode in _COPIES:
        found = computation[found.operands[0]]
    if found.opcode == "get-tuple-element":
        holder = computation[found.operands[0]]
        if holder.opcode == "tuple":
            return _element(computation, holder, int(found.attribute("index") or 0))
    return found


def _element(computation: dict[str, Instruction], holder: Instruction, index: int) -> Instruction:
    """The instruction that produced one element of a tuple."""
    if holder.opcode != "tuple":
        raise HloError(f"{holder.name}: expected a tuple instruction")
    return _origin(computation, holder.operands[index])


def _constant(computation: dict[str, Instruction], name: str) -> int | None:
    found = _origin(computation, name)
    return int(found.arguments) if found.opcode == "constant" and _is_int(found) else None


def _is_int(instruction: Instruction) -> bool:
    shape = instruction.shapes[0]
    return shape.dtype in ("s32", "u32", "s64") and not shape.dims


def _int_constants(computation: dict[str, Instruction]) -> list[int]:
    return [
        int(instruction.arguments)
        for instruction in computation.values()
        if instruction.opcode == "constant" and _is_int(instruction)
    ]
