"""Exported models as classes of transformers (torch; extra `codecs`).

    import gpst_jax.hf
    from transformers import AutoModel

    model = AutoModel.from_pretrained("DIRECTORY")

Importing this package registers the classes. They come with this package, never with the weights.
"""

from transformers import AutoConfig, AutoModel

from gpst_jax.hf.configuration import GPSTSpeechConfig
from gpst_jax.hf.gpst import GPSTForSpeech, GPSTOutput

__all__ = ["GPSTForSpeech", "GPSTOutput", "GPSTSpeechConfig"]

AutoConfig.register(GPSTSpeechConfig.model_type, GPSTSpeechConfig)
AutoModel.register(GPSTSpeechConfig, GPSTForSpeech)
