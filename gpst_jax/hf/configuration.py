"""`config.json` of exported models, as transformers reads it."""

from typing import Any

from transformers import PreTrainedConfig

from data_pipeline.tokens import TokenLayout
from gpst_jax.config.fields import from_dict
from gpst_jax.config.models import FlowConfig, GPSTConfig, SemanticLMConfig


class SemanticLMSpeechConfig(PreTrainedConfig):
    """The semantic language model, `modern` block; `llama` is exported as transformers' Llama.

    Attributes:
        model: the fields of `gpst_jax.config.models.SemanticLMConfig`.
        vocab_size: ids of text, markers and units.
        vocabulary: the fields of `data_pipeline.tokens.vocabulary.Vocabulary`.
        gpst_jax: metadata of the run, from the exporter.
    """

    model_type = "gpst_semantic_lm"
    model: dict[str, Any] | None = None
    vocab_size: int = 0
    vocabulary: dict[str, Any] | None = None
    gpst_jax: dict[str, Any] | None = None

    def model_config(self) -> SemanticLMConfig:
        """The model's configuration; raises ConfigError for unknown or missing fields."""
        return from_dict(SemanticLMConfig, self.model or {})


class FlowSpeechConfig(PreTrainedConfig):
    """Flow matching, with the vocabulary sizes and rates of its dataset.

    Attributes:
        model: the fields of `gpst_jax.config.models.FlowConfig`.
        layout: the fields of `data_pipeline.tokens.TokenLayout`.
        latent_size: width of the codec's vectors.
        positions: of the run; not used here.
        deduplicate: of the run; not used here.
        gpst_jax: metadata of the run, from the exporter.
    """

    model_type = "gpst_flow"
    model: dict[str, Any] | None = None
    layout: dict[str, Any] | None = None
    latent_size: int = 0
    positions: str = "time"
    deduplicate: bool = False
    gpst_jax: dict[str, Any] | None = None

    def model_config(self) -> FlowConfig:
        """The model's configuration; raises ConfigError for unknown or missing fields."""
        return from_dict(FlowConfig, self.model or {})

    def token_layout(self) -> TokenLayout:
        """The token layout; raises ConfigError for unknown or missing fields."""
        return from_dict(TokenLayout, self.layout or {})


class GPSTSpeechConfig(PreTrainedConfig):
    """GPST, with the vocabulary sizes and rates of its dataset.

    Attributes:
        model: the fields of `gpst_jax.config.models.GPSTConfig`.
        layout: the fields of `data_pipeline.tokens.TokenLayout`.
        positions: `time` or `running`.
        deduplicate: whether the model takes de-duplicated units.
        gpst_jax: metadata of the run, from the exporter; None for a model created in torch.
    """

    model_type = "gpst"
    model: dict[str, Any] | None = None
    layout: dict[str, Any] | None = None
    positions: str = "time"
    deduplicate: bool = False
    gpst_jax: dict[str, Any] | None = None

    def model_config(self) -> GPSTConfig:
        """The model's configuration; raises ConfigError for unknown or missing fields."""
        return from_dict(GPSTConfig, self.model or {})

    def token_layout(self) -> TokenLayout:
        """The token layout; raises ConfigError for unknown or missing fields."""
        return from_dict(TokenLayout, self.layout or {})
