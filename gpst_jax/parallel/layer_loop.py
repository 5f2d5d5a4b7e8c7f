"""The loop over layers whose parameters are stacked along a leading axis.

A scan compiles one layer, whatever the depth. On CPUs it also copies every layer's parameters and
saved activations out of and into stacked arrays that it first fills with zeros, so few layers are
unrolled in programs for one CPU (docs/benchmarks.md).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gpst_jax.parallel.cpu_compiler import on_one_cpu

UNROLLED_ON_CPU = 16  # layers at most: compile time grows with each


def over_layers(
    body: Callable[[jax.Array, Any], tuple[jax.Array, Any]], x: jax.Array, layers: Any
) -> tuple[jax.Array, Any]:
    """`jax.lax.scan` of a layer's body, or the same unrolled: see above.

    Args:
        body: maps the input of a layer and its part of `layers` to its output, of the same shape
            and dtype, and a result or None.
        x: the input of the first layer.
        layers: a tree of arrays (layers, ...), such as parameters and keys.

    Returns:
        The last output and the results, stacked.
    """
    leaves, tree = jax.tree.flatten(layers)
    count = leaves[0].shape[0]
    if count > UNROLLED_ON_CPU or not on_one_cpu():
        return jax.lax.scan(body, x, layers)
    results = []
    for parts in zip(*map(_unstacked, leaves), strict=True):
        x, result = body(x, jax.tree.unflatten(tree, parts))
        results.append(result)
    return x, jax.tree.map(lambda *one: jnp.stack(one), *results)


def _unstacked(leaf: jax.Array) -> tuple[jax.Array, ...]:
    """The layers of a leaf; their gradients are stacked at once, not added up one by one."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return tuple(leaf)
    return jax.lax.unstack(leaf)
