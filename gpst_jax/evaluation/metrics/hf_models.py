"""The models of the published protocol, from a local directory or the Hugging Face hub.

`GPST_HUBERT_CTC` and `GPST_WAVLM_SV` name local directories; without them the models come from the
hub, or from its local cache alone when `HF_HUB_OFFLINE=1`. Weights are read from safetensors where
the repository has them, otherwise as tensors only; no code is loaded from the hub.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from data_pipeline.runtime.errors import UserError

HUBERT_CTC = "facebook/hubert-large-ls960-ft"
WAVLM_SV = "microsoft/wavlm-base-plus-sv"
HUBERT_CTC_VARIABLE = "GPST_HUBERT_CTC"
WAVLM_SV_VARIABLE = "GPST_WAVLM_SV"
MODULES = (("torch", "torch"), ("transformers", "transformers"))


def _pretrained(name: str, variable: str, *loaders: Callable[[str], Any]) -> list[Any]:
    """Loads the parts of a model; raises UserError where it cannot be found."""
    import torch

    torch.set_num_threads(1)
    source = os.environ.get(variable, name)
    try:
        return [load(source) for load in loaders]
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"cannot load {source} ({reason}); download it first and set {variable} to its "
            "directory, or allow access to the hub"
        ) from error


def load_hubert_ctc() -> Callable[[np.ndarray], str]:
    """Greedy CTC recogniser: wav (N,) float32 at 16 kHz -> upper-case text."""
    import torch
    from transformers import HubertForCTC, Wav2Vec2Processor

    processor, model = _pretrained(
        HUBERT_CTC,
        HUBERT_CTC_VARIABLE,
        Wav2Vec2Processor.from_pretrained,
        HubertForCTC.from_pretrained,
    )
    model.eval()

    def transcribe(wav: np.ndarray) -> str:
        # One utterance at a time: no padding, so the result does not depend on a batch.
        inputs = processor(wav, sampling_rate=16000, return_tensors="pt")
        with torch.inference_mode():
            ids = model(inputs.input_values).logits.argmax(-1)
        return processor.batch_decode(ids, skip_special_tokens=True)[0]

    return transcribe


def load_wavlm_xvector() -> Callable[[np.ndarray], list[float]]:
    """Speaker verification encoder: wav (N,) float32 at 16 kHz -> unit-norm x-vector."""
    import torch
    from transformers import Wav2Vec2FeatureExtractor, WavLMForXVector

    extractor, model = _pretrained(
        WAVLM_SV,
        WAVLM_SV_VARIABLE,
        Wav2Vec2FeatureExtractor.from_pretrained,
        WavLMForXVector.from_pretrained,
    )
    model.eval()

    def embed(wav: np.ndarray) -> list[float]:
        inputs = extractor(wav, sampling_rate=16000, return_tensors="pt")
        with torch.inference_mode():
            vector = model(inputs.input_values).embeddings[0]
        return torch.nn.functional.normalize(vector, dim=0).tolist()

    return embed
