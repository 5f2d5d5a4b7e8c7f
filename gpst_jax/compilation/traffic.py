"""HBM traffic of a compiled train step by cause: part of the model, direction and kind.

The parts are the name scopes of the models (`jax.named_scope`), which the compiler keeps in the
metadata of instructions.
"""

import collections
import re
from typing import NamedTuple

from gpst_jax.compilation import hlo_cost
from gpst_jax.compilation.hlo import Instruction, Module

# The first scope found in an instruction's path names its part.
_PARTS = (
    ("local", "local transformer"),
    ("acoustic_loss", "acoustic head and loss"),
    ("chunked_cross_entropy", "semantic head and loss"),
    ("global", "global transformer"),
    ("optimizer", "optimiser"),
)
_KINDS = ("attention", "mlp", "dropout")
_COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


class Cause(NamedTuple):
    """What traffic is for.

    Attributes:
        part: of the model; `rest` has gradients, metrics and what has no name.
        backward: whether it is in the backward pass, recomputation included.
        kind: `saved` are accesses to the stacks of saved activations and of layers' weights,
            `moves` copies between HBM and on-chip memory that the compiler adds.
    """

    part: str
    backward: bool
    kind: str

    def __str__(self) -> str:
        """As in reports: `local transformer, backward: mlp`."""
        return f"{self.part}, {'backward' if self.backward else 'forward'}: {self.kind}"


def by_cause(module: Module) -> dict[Cause, float]:
    """Bytes that one device reads from and writes to HBM in a step, largest first."""
    totals: dict[Cause, float] = collections.defaultdict(float)
    usual: dict[int, tuple[str, bool]] = {}
    for instruction, computation, times, fused in module.walk():
        moved = 0.0 if fused else times * hlo_cost.traffic(instruction, computation, module)
        if not moved:
            continue
        where = _place(instruction)
        if where is None:  # as most of the loop's body, or of the program, around it
            if id(computation) not in usual:
                usual[id(computation)] = _usual_place(computation)
            where = usual[id(computation)]
        totals[Cause(*where, _kind(instruction))] += moved
    return dict(sorted(totals.items(), key=lambda item: -item[1]))


def _path(instruction: Instruction) -> str:
    found = re.search(r'op_name="([^"]*)"', instruction.attributes)
    return found.group(1) if found else ""


def _place(instruction: Instruction) -> tuple[str, bool] | None:
    """Part and direction; None without metadata."""
    path = _path(instruction)
    if not path:
        return None
    names = re.findall(r"\w+", path)
    part = next((part for scope, part in _PARTS if scope in names), "rest")
    return part, "transpose(" in path


def _usual_place(computation: dict[str, Instruction]) -> tuple[str, bool]:
    places = collections.Counter(
        place
        for place in map(_place, computation.values())
        if place is not None and place[0] != "rest"
    )
    return places.most_common(1)[0][0] if places else ("rest", False)


def _kind(instruction: Instruction) -> str:
    opcode, name = instruction.opcode.removesuffix("-start"), instruction.name
    if opcode in _COLLECTIVES:
        return "collectives"
    if opcode == "dynamic-update-slice" or re.search(r"dynamic-(update-)?slice", name):
        return "saved"
    names = re.findall(r"\w+", _path(instruction))
    if not names:
        return "moves"
    return next((kind for kind in _KINDS if kind in names), "other")
