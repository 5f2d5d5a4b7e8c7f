"""GPST whose global transformer is initialised from Llama (arXiv 2305.13009)."""

from collections.abc import Callable
from typing import Any

import jax

from gpst_jax.config import ConfigError
from gpst_jax.parallel.sharding import path_string
from gpst_jax.weights.llama import LlamaSource
from gpst_jax.weights.sources import read_whole


def global_net(source: LlamaSource, draw: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """GPST's global transformer from Llama's (arXiv 2305.13009): an `initial` for `train.train`.

    Taken are the matrices of attention and feed-forward, the norms before them and the final norm.
    Not taken, but drawn: embeddings, heads and the local network, which are of other tokens, and
    what Llama does not have, the norms and biases of queries and keys.

    Args:
        source: of Llama; widths, heads and layers must be those of `global_net`.
        draw: gives fresh parameters from their shapes and shardings.

    Returns:
        A function of the shapes and shardings; it raises ConfigError where the sizes differ.
    """
    taken = {
        path.replace("net/", "global_net/", 1): path
        for path in source.shapes()
        if path.startswith("net/")
    }

    def initial(abstract: Any) -> Any:
        wanted = {path_string(path): leaf for path, leaf in jax.tree.leaves_with_path(abstract)}
        for path, own in taken.items():
            found, shape = source.shapes()[own].shape, getattr(wanted.get(path), "shape", None)
            if shape != found:
                raise ConfigError(
                    f"config field model.global_net: {path} is {shape}, in "
                    f"{source.description.config.name} it is {found}; a warm start needs the block "
                    f"'modern' and {source.model.net}"
                )

        def choose(key_path: Any, leaf: Any, drawn: Any) -> Any:
            own = taken.get(path_string(key_path))
            if own is None:
                return drawn
            return jax.device_put(read_whole(source, own).astype(leaf.dtype), leaf.sharding)

        return jax.tree.map_with_path(choose, abstract, draw(abstract))

    return initial
