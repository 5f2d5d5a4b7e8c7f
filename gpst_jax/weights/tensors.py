"""One exported tensor, and what is particular to a model family outside JAX."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from gpst_jax.config import RunConfig

_STACK = "layers"


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One exported tensor.

    Attributes:
        name: outside.
        path: of the array here.
        layer: row of the array's leading axis; None for an array that is not a stack.
        transposed: whether the last two axes are swapped.
        shape: outside.
    """

    name: str
    path: str
    layer: int | None
    transposed: bool
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Family:
    """What is particular to a model family outside JAX.

    Attributes:
        name: `family` of the model's configuration.
        architecture: the torch class; None where there is none.
        model_type: by which transformers finds the class.
        name_of: maps the path of an array, `layers` followed by the layer's number, to its name.
        config: further keys of `config.json`, from the run, the contents of dataset.json and the
            arrays' shapes by path.
    """

    name: str
    architecture: str | None
    model_type: str
    name_of: Callable[[str], str]
    config: Callable[[RunConfig, Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]

    def tensors(self, shapes: Mapping[str, Any]) -> list[Tensor]:
        """The tensors of a model, ordered by array and layer.

        Args:
            shapes: by path, anything with a `shape`.
        """
        found = []
        for path in sorted(shapes):
            shape = tuple(shapes[path].shape)
            stacked = _STACK in path.split("/")[:-1]
            transposed = path.endswith("/kernel")
            own = shape[1:] if stacked else shape
            if transposed:
                own = (*own[:-2], own[-1], own[-2])
            for layer in range(shape[0]) if stacked else (None,):
                at = path if layer is None else path.replace(f"{_STACK}/", f"{_STACK}/{layer}/", 1)
                found.append(Tensor(self.name_of(at), path, layer, transposed, own))
        return found
