"""Model families behind the one protocol that the training loop knows, see `base`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipeline.spec import DatasetSpec
from gpst_jax.config import GPSTConfig, RunConfig
from gpst_jax.objectives.base import Batch, Metrics, Objective, Params
from gpst_jax.objectives.gpst import GPSTObjective

__all__ = ["Batch", "GPSTObjective", "Metrics", "Objective", "Params", "make_objective"]

Maker = Callable[[RunConfig, DatasetSpec, Path], Objective]

_MAKERS: dict[type, Maker] = {
    GPSTConfig: lambda config, spec, dataset_dir: GPSTObjective(config, spec.layout()),
}


def make_objective(config: RunConfig, spec: Any, dataset_dir: str | Path) -> Objective:
    """The objective of a run on a dataset.

    Args:
        config: the run; the type of its model chooses the family.
        spec: of the dataset.
        dataset_dir: where the dataset's tokenizers lie.

    Raises:
        ConfigError: the dataset does not fit the model.
    """
    objective = _MAKERS[type(config.model)](config, spec, Path(dataset_dir))
    objective.check_dataset(spec)
    return objective
