"""Shapes of the TPU slices that exist, from the makers' tables of configurations.

`tpu_scripts/chips.sh` runs this file with a topology, before anything is installed: standard
library only. It prints why there is no such slice, and nothing where there is one.
"""

import itertools
import math
import re
import sys

_PLANES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_PARTS_OF_A_CUBE = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")

# Generation -> all its shapes.
PLANES = {"v5e": _PLANES, "v6e": _PLANES}
# Generation -> chips of its largest slice. Its shapes are the parts of a cube of 4x4x4, and cubes
# side by side: AxBxC, multiples of 4 in ascending order.
CUBES = {"v4": 4096, "v5p": 6144, "tpu7x": 9216}
GENERATIONS = (*PLANES, *CUBES)


def refusal(topology: str) -> str | None:
    """Why there is no slice of a topology such as `v5p:4x4x8`; None where there is one."""
    if not re.fullmatch(r"[a-z0-9]+:[1-9][0-9]*(x[1-9][0-9]*)*", topology):
        return "write GENERATION:AxB or GENERATION:AxBxC, such as v5e:4x4 or v5p:4x4x8"
    generation, shape = topology.split(":")
    if generation in PLANES:
        if shape in PLANES[generation]:
            return None
        return f"{generation} has no such slice; it has {', '.join(PLANES[generation])}"
    if generation not in CUBES:
        return f"choose {', '.join(GENERATIONS)}"
    sides = [int(side) for side in shape.split("x")]
    largest = CUBES[generation]
    if shape in _PARTS_OF_A_CUBE:
        return None
    whole_cubes = len(sides) == 3 and sides == sorted(sides) and not any(n % 4 for n in sides)
    if whole_cubes and math.prod(sides) <= largest:
        return None
    return (
        f"{generation} has no such slice; it has {', '.join(_PARTS_OF_A_CUBE)}, and AxBxC of "
        f"multiples of 4 in ascending order with at most {largest:,} chips, such as 4x4x4 or 4x4x8"
    )


def slices(generation: str) -> list[tuple[str, int]]:
    """The most compact slice of each power of two: topologies and numbers of chips, ascending."""
    sides = [2**power for power in range(14)]
    found: dict[int, tuple[int, int, str]] = {}
    for shape in itertools.combinations_with_replacement(sides, 2 if generation in PLANES else 3):
        name = f"{generation}:{'x'.join(map(str, shape))}"
        # Parts of a cube are written in an order of their own: 2x2x1.
        names = {name, f"{generation}:{'x'.join(map(str, reversed(shape)))}"}
        made = next((name for name in sorted(names) if refusal(name) is None), None)
        if made:
            count = math.prod(shape)
            compact = (shape[-1], -shape[0], made)
            found[count] = min(found.get(count, compact), compact)
    return [(name, count) for count, (*_, name) in sorted(found.items())]


if __name__ == "__main__":
    print(refusal(sys.argv[1]) or "", end="")
