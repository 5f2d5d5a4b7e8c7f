"""Protocols of semantic tokenizers and acoustic codecs.

Both map a signal of N samples (at the tokenizer's rate, after resampling) to exactly
``T = ceil(N / hop)`` tokens or frames; the signal is padded at its end. The durations of the two
streams of a signal therefore agree to within one token, and for rates of a simple ratio (50 and
75 Hz, 50 and 12.5 Hz) to within one frame; `tokenization.shard.align` trims larger differences.

Encoding is deterministic, and the tokens of a signal do not depend on the batch. Tokenizers that
profit from batches implement `encode_batch` beside `encode`, see `batching`.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np


def num_frames(num_samples: int, hop: int) -> int:
    """Number of tokens or frames of either stream: ``ceil(num_samples / hop)``."""
    return -(-num_samples // hop)


@runtime_checkable
class SemanticTokenizer(Protocol):
    """Speech to semantic units.

    Attributes:
        id: names the method and its main sizes.
        sha256: over the stored configuration and weights.
        sample_rate: in Hz, to which signals are resampled.
        frame_rate: units per second.
        vocab_size: units are in [0, vocab_size).
    """

    id: str
    sha256: str
    sample_rate: int
    frame_rate: float
    vocab_size: int

    def encode(self, wav: np.ndarray, sample_rate: int) -> np.ndarray:
        """Returns the units, uint16 (T,), of a signal, float32 (N,), at any sample rate."""
        ...


@runtime_checkable
class AcousticCodec(Protocol):
    """Speech to Q residual codes per frame, and back.

    Attributes:
        id: names the method and its main sizes.
        sha256: over the stored configuration and weights.
        sample_rate: in Hz, of the signals that are encoded and decoded.
        frame_rate: frames per second.
        num_codebooks: Q; the first k codebooks alone are a codec too.
        codebook_size: codes are in [0, codebook_size) in every codebook.
    """

    id: str
    sha256: str
    sample_rate: int
    frame_rate: float
    num_codebooks: int
    codebook_size: int

    def encode(self, wav: np.ndarray, sample_rate: int) -> np.ndarray:
        """Returns the codes, uint16 (Q, T), of a signal, float32 (N,), at any sample rate."""
        ...

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Returns the signal, float32 (T * hop,), of codes (Q', T) with 1 <= Q' <= Q."""
        ...


@runtime_checkable
class BatchTokenizer(Protocol):
    """A tokenizer that encodes several signals in one call of its network.

    Attributes:
        equal_lengths: padding would change a signal's tokens (group normalisation over time,
            non-causal convolutions, bidirectional LSTMs), so that only signals with the same number
            of tokens share a batch.
    """

    equal_lengths: bool

    def encode_batch(self, wavs: Sequence[np.ndarray], sample_rate: int) -> list[np.ndarray]:
        """Returns the tokens of each signal, as `encode` returns them, in order."""
        ...
