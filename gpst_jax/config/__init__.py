"""Configuration of a run: frozen, validated dataclasses with an exact JSON form."""

from gpst_jax.config.fields import ConfigError, from_dict
from gpst_jax.config.models import (
    FlowConfig,
    GPSTConfig,
    ModelConfig,
    RopeScaling,
    SemanticLMConfig,
    SoundStormConfig,
    TransformerConfig,
)
from gpst_jax.config.run import (
    DataConfig,
    EvalConfig,
    MeshConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    parse_range,
)

__all__ = [
    "ConfigError",
    "DataConfig",
    "EvalConfig",
    "FlowConfig",
    "GPSTConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RopeScaling",
    "RunConfig",
    "SemanticLMConfig",
    "SoundStormConfig",
    "TrainConfig",
    "TransformerConfig",
    "from_dict",
    "parse_range",
]
