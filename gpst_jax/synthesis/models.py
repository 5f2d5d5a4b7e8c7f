"""Opens a model of any format together with its tokenizers."""

import dataclasses
import functools
from pathlib import Path

import jax

from data_pipeline.datasets.cache import local_dataset
from data_pipeline.datasets.dataset_json import SPEC_FILE
from data_pipeline.runtime.buckets import access, location
from data_pipeline.runtime.errors import UserError
from gpst_jax.checkpoints.manager import Loaded, load_params
from gpst_jax.parallel.sharding import parameter_shardings
from gpst_jax.weights import loading
from gpst_jax.weights.sources import OrbaxSource


@dataclasses.dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
        path: where it was loaded from.
        loaded: parameters and their description.
        directory: that the tokenizers' paths are relative to.
    """

    path: str
    loaded: Loaded
    directory: Path


def open_model(
    path: str | Path,
    step: int | None = None,
    dataset: str | Path | None = None,
    *,
    flag: str = "workdir",
    mesh: jax.sharding.Mesh | None = None,
) -> Model:
    """Loads the model of a run or of an export.

    Args:
        path: directory of either.
        step: checkpoint of a run; None: the newest.
        dataset: directory of dataset.json and the tokenizers; None: of an export its own, of a run
            its dataset, of a mixture the first.
        flag: that named `path`, for messages.
        mesh: among whose devices the parameters are divided, as in training; None: all are on one.
            The model is then run with the mesh set (`jax.set_mesh`).

    Raises:
        UserError: there is no model, or its tokenizers are not at hand.
        CheckpointError: a checkpoint is missing or damaged.
    """
    with access(path):
        there = location(path).is_dir()
    if not there:
        raise UserError(f"--{flag}={path}: no such directory of a run or an export")
    shardings = None if mesh is None else functools.partial(parameter_shardings, mesh)
    if loading.is_run(path):
        loaded = load_params(path, step, shardings=shardings)
        files = OrbaxSource(path, step).files
    else:
        source = loading.open_source(path, () if step is None else (step,))
        loaded, files = loading.load(source, shardings), source.files
    directory = Path(local_dataset(str(dataset))) if dataset else files
    if directory is None:
        raise UserError(
            f"--{flag}={path}: its tokenizers are not at hand: the dataset "
            f"{loaded.config.data.path!r} is gone; give "
            + (
                "a directory with its dataset.json and tokenizers as --dataset"
                if flag == "workdir"
                else "an export of the run, which holds them"
            )
        )
    if not (directory / SPEC_FILE).is_file():
        raise UserError(f"--dataset={directory}: holds no {SPEC_FILE}")
    return Model(str(path), loaded, directory)
