"""Model families behind the one protocol that the training loop knows, see `base`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipeline.sequence_spec import SequenceSpec
from gpst_jax.config import ConfigError, GPSTConfig, RunConfig, SemanticLMConfig
from gpst_jax.objectives.base import Batch, Metrics, Objective, Params
from gpst_jax.objectives.gpst import GPSTObjective
from gpst_jax.objectives.semantic_lm import SemanticLMObjective

__all__ = [
    "Batch",
    "GPSTObjective",
    "Metrics",
    "Objective",
    "Params",
    "SemanticLMObjective",
    "make_objective",
]

Maker = Callable[[RunConfig, Any, Path], Objective]


def _semantic_lm(config: RunConfig, spec: Any, dataset_dir: Path) -> SemanticLMObjective:
    if not isinstance(spec, SequenceSpec):
        raise ConfigError(
            f"config field data.path: {dataset_dir} holds no sequences of text and units; make "
            f"them of it with {SequenceSpec.WRITER}"
        )
    return SemanticLMObjective(config, spec.vocabulary, spec.semantic.frame_rate)


_MAKERS: dict[type, Maker] = {
    GPSTConfig: lambda config, spec, dataset_dir: GPSTObjective(config, spec.layout()),
    SemanticLMConfig: _semantic_lm,
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
