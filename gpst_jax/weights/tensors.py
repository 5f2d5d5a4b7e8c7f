"""Exported tensors, and how a model family maps its arrays to them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from gpst_jax.config import RunConfig

_LAYERS = "layers"


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One exported tensor.

    Attributes:
        name: in the exported file.
        path: of the array in JAX.
        layer: index along the array's leading layer axis; None where it has none.
        transposed: whether the last two axes are swapped.
        shape: in the exported file.
    """

    name: str
    path: str
    layer: int | None
    transposed: bool
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Family:
    """The exported form of a model family.

    Attributes:
        name: `family` of the model config.
        architecture: the torch class; None where there is none.
        model_type: by which transformers finds the class.
        name_of: maps a path, with the layer index after `layers`, to a tensor name.
        config: further keys of `config.json`, from the run config, the contents of dataset.json
            and the shapes by path.
    """

    name: str
    architecture: str | None
    model_type: str
    name_of: Callable[[str], str]
    config: Callable[[RunConfig, Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]

    def tensors(self, shapes: Mapping[str, Any]) -> list[Tensor]:
        """The tensors of a model, ordered by path and layer.

        Args:
            shapes: values with a `shape`, by path.
        """
        found = []
        for path in sorted(shapes):
            shape = tuple(shapes[path].shape)
            stacked = _LAYERS in path.split("/")[:-1]
            transposed = path.endswith("/kernel")
            outer = shape[1:] if stacked else shape
            if transposed:
                outer = (*outer[:-2], outer[-1], outer[-2])
            for layer in range(shape[0]) if stacked else (None,):
                at = path
                if layer is not None:
                    at = path.replace(f"{_LAYERS}/", f"{_LAYERS}/{layer}/", 1)
                found.append(Tensor(self.name_of(at), path, layer, transposed, outer))
        return found
