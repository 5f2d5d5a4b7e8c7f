"""Resemblyzer (GE2E, arXiv 1710.10467), from its pip package, which carries the weights."""

import warnings
from collections.abc import Callable

import numpy as np

from data_pipeline.runtime.errors import UserError


def load() -> Callable[[np.ndarray], list[float]]:
    """A speaker encoder: wav (N,) float32 at 16 kHz -> unit-norm embedding (256,)."""
    import torch

    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        # The encoder calls torch.load without arguments; from 2.6 that loads tensors only.
        raise UserError(
            f"torch {torch.__version__} would unpickle the weights in the Resemblyzer wheel; "
            "install torch 2.6 or newer"
        )
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports a deprecated scipy name
        from resemblyzer import VoiceEncoder, preprocess_wav
    encoder = VoiceEncoder("cpu", verbose=False)

    def embed(wav: np.ndarray) -> list[float]:
        voiced = preprocess_wav(wav)
        # Voice activity detection may keep nothing; then the unprocessed clip is embedded.
        embedding = encoder.embed_utterance(voiced if len(voiced) else wav)
        return [float(value) for value in embedding]

    return embed
