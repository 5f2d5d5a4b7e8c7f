"""The first codebook of a codec as the semantic tokenizer.

The first codebook of SpeechTokenizer (arXiv 2308.16692), and of its offline stand-in `unified_rvq`,
encodes content: the same codes then serve both streams, as SpeechGPT-Gen (arXiv 2401.13527) needs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np


class FirstCodebook:
    """Implements `base.SemanticTokenizer` and `base.BatchTokenizer` on top of a codec.

    Args:
        codec: an `AcousticCodec`; if it has `encode_first`, only that codebook is computed.
    """

    def __init__(self, codec: Any):
        self.codec = codec
        self.id = f"{codec.id}-first"
        self.sha256 = codec.sha256
        self.sample_rate = codec.sample_rate
        self.frame_rate = codec.frame_rate
        self.vocab_size = getattr(codec, "semantic_vocab", codec.codebook_size)
        self.equal_lengths = getattr(codec, "equal_lengths", False)
        self.context_frames = codec.context_frames

    def encode(self, wav: np.ndarray, sample_rate: int) -> np.ndarray:
        """Units, uint16 (T,), of a signal, float32 (N,); T = ceil(N / hop) after resampling."""
        return self.encode_batch([wav], sample_rate)[0]

    def encode_batch(self, wavs: Sequence[np.ndarray], sample_rate: int) -> list[np.ndarray]:
        """Units of each signal, as `encode` returns them."""
        if hasattr(self.codec, "encode_first"):
            return [self.codec.encode_first(wav, sample_rate) for wav in wavs]
        if hasattr(self.codec, "encode_batch"):
            return [codes[0] for codes in self.codec.encode_batch(wavs, sample_rate)]
        return [self.codec.encode(wav, sample_rate)[0] for wav in wavs]
