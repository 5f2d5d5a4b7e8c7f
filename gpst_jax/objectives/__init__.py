"""Model families behind the one protocol that the training loop uses, see `base`."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.datasets.sequence_dataset import SequenceSpec
from data_pipeline.loading.mixture import read_mixture
from data_pipeline.tokenizers import load_codec
from gpst_jax.config import (
    ConfigError,
    FlowConfig,
    GPSTConfig,
    RunConfig,
    SemanticLMConfig,
    SoundStormConfig,
)
from gpst_jax.objectives.base import Batch, Metrics, Objective, Params
from gpst_jax.objectives.flow_matching import FlowObjective
from gpst_jax.objectives.frames import sample_codes
from gpst_jax.objectives.gpst import GPSTObjective
from gpst_jax.objectives.semantic_lm import SemanticLMObjective
from gpst_jax.objectives.soundstorm import SoundStormObjective

__all__ = [
    "Batch",
    "FlowObjective",
    "GPSTObjective",
    "Metrics",
    "Objective",
    "Params",
    "SemanticLMObjective",
    "SoundStormObjective",
    "make_objective",
]

Maker = Callable[[RunConfig, Any, Path], Objective]


def _semantic_lm(config: RunConfig, spec: Any, dataset_dir: Path) -> SemanticLMObjective:
    if not isinstance(spec, SequenceSpec):
        raise ConfigError(
            f"config field data.path: {dataset_dir} holds no sequences of text and units; "
            f"build them with {SequenceSpec.WRITER}"
        )
    return SemanticLMObjective(config, spec.vocabulary, spec.semantic.frame_rate)


def _flow(config: RunConfig, spec: Any, dataset_dir: Path) -> FlowObjective:
    codebooks = _codebooks(config, spec, dataset_dir)
    read_codes = functools.partial(sample_codes, dataset_dir, spec)
    return FlowObjective(config, spec.layout(), codebooks, read_codes)


def _soundstorm(config: RunConfig, spec: Any, dataset_dir: Path) -> SoundStormObjective:
    return SoundStormObjective(config, spec.layout(), _codebooks(config, spec, dataset_dir))


def _codebooks(config: RunConfig, spec: Any, dataset_dir: Path) -> np.ndarray:
    codebooks = getattr(load_codec(dataset_dir / spec.codec.path), "codebooks", None)
    if codebooks is None:
        raise ConfigError(
            f"dataset {dataset_dir}: the codec {spec.codec.id} has no code vectors, which "
            f"{config.model.family} needs; tokenise with a codec whose code vectors add up"
        )
    return codebooks


_MAKERS: dict[type, Maker] = {
    GPSTConfig: lambda config, spec, dataset_dir: GPSTObjective(config, spec.layout()),
    SemanticLMConfig: _semantic_lm,
    FlowConfig: _flow,
    SoundStormConfig: _soundstorm,
}


def make_objective(config: RunConfig, spec: Any, dataset_dir: str | Path) -> Objective:
    """The objective of a run on a dataset.

    Args:
        config: the run; the type of its model chooses the family.
        spec: of the dataset.
        dataset_dir: of the dataset and its tokenizers: a directory, gs://BUCKET/NAME or a mixture.

    Raises:
        ConfigError: the dataset does not fit the model.
    """
    where = Path(read_mixture(dataset_dir)[0].path)
    objective = _MAKERS[type(config.model)](config, spec, where)
    objective.check_dataset(spec)
    return objective
