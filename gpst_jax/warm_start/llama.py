"""Warm start of GPST's global transformer from Llama, as in TWIST (arXiv 2305.13009)."""

from collections.abc import Callable
from typing import Any

import jax

from gpst_jax.config import ConfigError
from gpst_jax.parallel.sharding import path_string
from gpst_jax.weights.llama import LlamaSource
from gpst_jax.weights.sources import read_whole


def global_net(source: LlamaSource, draw: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """An `initial` for `training.loop.train`: Llama's layers in GPST's global transformer.

    Attention and feed-forward kernels, their pre-norms and the final norm are loaded. Embeddings,
    heads and the local transformer, which belong to other tokens, and the query and key norms and
    biases, which Llama lacks, are initialised at random.

    Args:
        source: of Llama; its width, heads and layers must be those of `global_net`.
        draw: random parameters of given shapes and shardings.

    Returns:
        A function of the shapes and shardings; it raises ConfigError where the sizes differ.
    """
    loaded = {
        path.replace("net/", "global_net/", 1): path
        for path in source.shapes()
        if path.startswith("net/")
    }

    def initial(abstract: Any) -> Any:
        wanted = {path_string(path): leaf for path, leaf in jax.tree.leaves_with_path(abstract)}
        for path, llama_path in loaded.items():
            found, shape = (
                source.shapes()[llama_path].shape,
                getattr(wanted.get(path), "shape", None),
            )
            if shape != found:
                raise ConfigError(
                    f"config field model.global_net: {path} is {shape}, in "
                    f"{source.description.config.name} it is {found}; a warm start needs the block "
                    f"'modern' and {source.model.net}"
                )

        def choose(key_path: Any, leaf: Any, random: Any) -> Any:
            llama_path = loaded.get(path_string(key_path))
            if llama_path is None:
                return random
            return jax.device_put(read_whole(source, llama_path).astype(leaf.dtype), leaf.sharding)

        return jax.tree.map_with_path(choose, abstract, draw(abstract))

    return initial
