"""Warm start of a run with the parameters of a stored model.

`from_source` makes an `initial` for `training.loop.train`, which reads the arrays one after another
onto their devices.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from gpst_jax.checkpoints.record import CheckpointError
from gpst_jax.parallel.sharding import path_string
from gpst_jax.weights import loading
from gpst_jax.weights.sources import Source, read_whole

Initial = Callable[[Any], Any]
Replace = Callable[[str, np.ndarray, tuple[int, ...]], np.ndarray]


def from_source(source: Source, replace: Replace | None = None) -> Initial:
    """The parameters of a stored model.

    Args:
        source: see `weights.loading.open_source`.
        replace: maps (path, array, shape in the new run) to the initial array, for every array.

    Returns:
        A function of the shapes and shardings; it raises CheckpointError where paths or shapes are
        not those of the new run.
    """

    def initial(abstract: Any) -> Any:
        wanted = {path_string(path): leaf for path, leaf in jax.tree.leaves_with_path(abstract)}
        found = {path: leaf.shape for path, leaf in source.shapes().items()}
        _check_paths(source, found, wanted)
        if replace is None:
            _check_shapes(source, found, wanted)

        def read(path: str, leaf: Any) -> jax.Array:
            array = read_whole(source, path)
            if replace is not None:
                array = replace(path, array, leaf.shape)
                _check_shapes(source, {path: array.shape}, {path: leaf})
            return jax.device_put(array.astype(leaf.dtype), leaf.sharding)

        return loading.nested({path: read(path, leaf) for path, leaf in wanted.items()})

    return initial


def _check_paths(source: Source, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if found.keys() != wanted.keys():
        path = sorted(found.keys() ^ wanted.keys())[0]
        where = "only the model has" if path in found else "the model lacks"
        raise CheckpointError(
            f"cannot start from the parameters of {source.description.config.name}: {where} {path};"
            " use the section `model` of its config"
        )


def _check_shapes(source: Source, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for path, shape in found.items():
        if shape != wanted[path].shape:
            raise CheckpointError(
                f"cannot start from the parameters of {source.description.config.name}: {path} is "
                f"{shape} there and {wanted[path].shape} in the new run: the model sizes or the "
                "vocabularies of the datasets differ"
            )
