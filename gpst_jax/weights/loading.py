"""Loads a stored model onto devices: a run, exported parameters, or safetensors."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from data_pipeline.datasets.cache import local_folder
from data_pipeline.runtime.buckets import access, location
from data_pipeline.runtime.errors import UserError
from gpst_jax.checkpoints.manager import CHECKPOINT_DIRECTORY, Loaded
from gpst_jax.weights.safetensors_source import SafetensorsSource, refuse_pickles
from gpst_jax.weights.sources import MeanSource, OrbaxSource, Source, read_whole


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether a directory, or a folder of a bucket, holds checkpoints."""
    with access(path):
        return (location(path) / CHECKPOINT_DIRECTORY).is_dir()


def open_source(
    path: str | os.PathLike[str], steps: Sequence[int] = (), *, average: bool = True
) -> Source:
    """Opens the model in a directory, whatever its format.

    Args:
        path: of a run, or what `directory.export` or torch has written.
        steps: of a run: one checkpoint, or several to be averaged; empty: the newest.
        average: of a run: take the EMA where one was kept.

    Raises:
        UserError: there is none, or it cannot be used; the message says why.
        CheckpointError: a checkpoint is missing or corrupt.
    """
    if is_run(path):
        if len(steps) < 2:
            return OrbaxSource(path, steps[0] if steps else None, average=average)
        return MeanSource([OrbaxSource(path, step, average=average) for step in steps])
    path = local_folder(os.fspath(path))
    refuse_pickles(Path(path))
    if steps:
        raise UserError(f"{path} is not a run: it holds one model, without steps to choose from")
    return SafetensorsSource(Path(path))


def load(source: Source, shardings: Callable[[Any], Any] | None = None) -> Loaded:
    """Loads a model onto devices, one array after another.

    Args:
        source: see `open_source`.
        shardings: maps the tree of shapes to a tree of shardings; None: all on the first local
            device.

    Raises:
        CheckpointError: an array is corrupt or not finite.
    """
    tree = nested(source.shapes())
    if shardings is None:
        first = SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(lambda _: first, tree)
    else:
        target = shardings(tree)
    paths = nested({path: path for path in source.shapes()})
    params = jax.tree.map(
        lambda path, sharding: jax.device_put(read_whole(source, path), sharding), paths, target
    )
    about = source.description
    return Loaded(params, about.config, about.dataset, about.step, about.family)


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """A flat dict keyed by path as a nested dict."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree
