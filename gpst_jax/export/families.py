"""How the arrays of each model family are named and laid out outside JAX.

Layers, which are stacked along a leading axis here, are single tensors there. Matrices are
(out, in), as torch's linear layers hold them; ours are (in, out). Everything else is as it is.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from gpst_jax.config import ConfigError, RunConfig

_STACK = "layers"
_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight"}


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
        config: further keys of `config.json`, from the run and the contents of dataset.json.
    """

    name: str
    architecture: str | None
    model_type: str
    name_of: Callable[[str], str]
    config: Callable[[RunConfig, Mapping[str, Any]], dict[str, Any]]

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


def plain_name(path: str) -> str:
    """`global_net/layers/0/attn/q/kernel` as `global_net.layers.0.attn.q.weight`."""
    *parents, leaf = path.split("/")
    return ".".join([*parents, _LEAVES.get(leaf, leaf)])


def _speech_config(config: RunConfig, dataset: Mapping[str, Any]) -> dict[str, Any]:
    """What a model over both streams must know: sizes, rates, positions and silence."""
    semantic, codec = dataset["semantic"], dataset["codec"]
    return {
        "model": dataclasses.asdict(config.model),
        "layout": {
            "num_units": semantic["vocab_size"],
            "num_codebooks": codec["num_codebooks"],
            "codebook_size": codec["codebook_size"],
            "unit_rate": semantic["frame_rate"],
            "frame_rate": codec["frame_rate"],
        },
        "positions": config.data.positions,
        "deduplicate": config.data.deduplicate,
    }


_FAMILIES = {
    "gpst": Family("gpst", "GPSTForSpeech", "gpst", plain_name, _speech_config),
}


def get_family(name: str) -> Family:
    """The family of a model's configuration.

    Raises:
        ConfigError: it has no exported form.
    """
    if name not in _FAMILIES:
        raise ConfigError(
            f"config field model.family: {name!r} cannot be exported, only {', '.join(_FAMILIES)}"
        )
    return _FAMILIES[name]
