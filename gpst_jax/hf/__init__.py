"""Exported models as classes of transformers (torch; extra `torch`).

    import gpst_jax.hf
    from transformers import AutoModel

    model = AutoModel.from_pretrained("DIRECTORY")

Importing this package registers the classes; no code is loaded with the weights.
"""

from transformers import AutoConfig, AutoModel

from gpst_jax.hf.configuration import FlowSpeechConfig, GPSTSpeechConfig, SemanticLMSpeechConfig
from gpst_jax.hf.flow import FlowForSpeech
from gpst_jax.hf.gpst import GPSTForSpeech, GPSTOutput
from gpst_jax.hf.semantic_lm import SemanticLM

__all__ = [
    "FlowForSpeech",
    "FlowSpeechConfig",
    "GPSTForSpeech",
    "GPSTOutput",
    "GPSTSpeechConfig",
    "SemanticLM",
    "SemanticLMSpeechConfig",
]

for _model in (GPSTForSpeech, SemanticLM, FlowForSpeech):
    AutoConfig.register(_model.config_class.model_type, _model.config_class)
    AutoModel.register(_model.config_class, _model)
