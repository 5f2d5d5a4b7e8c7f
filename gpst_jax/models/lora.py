"""Low-rank adapters (LoRA, arXiv 2106.09685) for any objective: the base is frozen.

An adapter is an update of one matrix, W + alpha / rank * A B, where A (..., in, rank) and
B (..., rank, out) are trained and B is initialised to zero. Leading axes, such as that of scanned
layers, are a batch of matrices. Adapters are merged once per step, before the forward pass, so
that no model depends on them.

Parameters are `{"base": ..., "lora": ...}`: the parameters of the wrapped objective, and below
`lora` the same paths, each of which ends in `a` and `b`.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gpst_jax.config import ConfigError
from gpst_jax.models import Params
from gpst_jax.parallel.sharding import path_string

BASE, ADAPTERS = "base", "lora"
LAYER_MATRICES = (r"layers/(attn|mlp)/\w+/kernel$",)  # attention and feed-forward of all layers


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Which matrices are adapted, and how.

    Attributes:
        rank: inner dimension of an adapter.
        alpha: the product is scaled by alpha / rank.
        dropout: dropout rate of the inputs of each adapter, with one mask per micro-batch, as
            the product is merged into the matrix.
        targets: regular expressions; a parameter whose path matches one has an adapter.
        trained: regular expressions of parameters of the base that are fully trained, such as
            an embedding table with new rows.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = LAYER_MATRICES
    trained: tuple[str, ...] = ()

    def __post_init__(self):
        if self.rank < 1 or not 0 <= self.dropout < 1:
            raise ConfigError(
                "LoRA: rank must be positive and dropout lie in [0, 1), got "
                f"{self.rank} and {self.dropout}"
            )
        for pattern in (*self.targets, *self.trained):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(f"LoRA: {pattern!r} is no valid pattern: {error}") from error

    def adapts(self, path: str) -> bool:
        """Whether the parameter at a path of the base has an adapter."""
        return any(re.search(pattern, path) for pattern in self.targets)

    def trains(self, path: str) -> bool:
        """Whether the parameter at a path of the base is fully trained."""
        return any(re.search(pattern, path) for pattern in self.trained)


def init_adapters(base: Params, config: LoraConfig, key: jax.Array) -> dict[str, Any]:
    """Fresh adapters: A from N(0, 1 / in) and B zero, so that the update is zero.

    Args:
        base: parameters, or their shapes.
        config: which of them are adapted.
        key: for the initial values.

    Raises:
        ConfigError: a pattern matches no parameter, or one that is not a matrix.
    """
    leaves = {path_string(path): leaf for path, leaf in jax.tree.leaves_with_path(base)}
    for pattern in (*config.targets, *config.trained):
        if not any(re.search(pattern, path) for path in leaves):
            raise ConfigError(
                f"LoRA: {pattern!r} matches no parameter; one of them is {sorted(leaves)[0]}"
            )
    adapters: dict[str, Any] = {}
    for number, (path, leaf) in enumerate(sorted(leaves.items())):
        if not config.adapts(path):
            continue
        if leaf.ndim < 2:
            raise ConfigError(f"LoRA: {path} has the shape {leaf.shape}, it is not a matrix")
        *batch, rows, columns = leaf.shape
        shape = (*batch, rows, config.rank)
        node = adapters
        for part in path.split("/"):
            node = node.setdefault(part, {})
        node["a"] = rows**-0.5 * jax.random.normal(jax.random.fold_in(key, number), shape)
        node["b"] = jnp.zeros((*batch, config.rank, columns), jnp.float32)
    return adapters


def merge(params: Params, config: LoraConfig, key: jax.Array | None = None) -> Params:
    """The parameters of the wrapped objective with the adapters merged.

    Args:
        params: `base` and `lora`.
        config: of the adapters.
        key: switches dropout on.
    """
    return _merge(params[BASE], params[ADAPTERS], config, key)


def _merge(base: Any, adapters: Any, config: LoraConfig, key: jax.Array | None) -> Any:
    if not isinstance(base, Mapping):
        a, b = adapters["a"], adapters["b"]
        if key is not None and config.dropout:
            keep = jax.random.bernoulli(key, 1 - config.dropout, (*a.shape[:-1], 1))
            a = jnp.where(keep, a / (1 - config.dropout), 0)
        return base + ((config.alpha / config.rank) * (a @ b)).astype(base.dtype)
    merged = dict(base)
    for number, name in enumerate(sorted(adapters)):
        below = None if key is None else jax.random.fold_in(key, number)
        merged[name] = _merge(base[name], adapters[name], config, below)
    return merged


def merged_params(params: Params, config: LoraConfig) -> Params:
    """`merge`, jitted; each array has the sharding of the base's."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, params[BASE])
    return jax.jit(functools.partial(merge, config=config), out_shardings=shardings)(params)
