"""What a tokenizer is: the two protocols that every tokenizer of either stream implements.

Both map a signal of N samples (at the tokenizer's own rate, after resampling) to exactly
``T = ceil(N / hop)`` tokens or frames, the signal being padded at its end. With equal spans of
audio the two streams' lengths therefore agree in time to within one token, and for rates whose
ratio is a small fraction (50 and 75 Hz, 50 and 12.5 Hz) to within one frame as they come; what is
further apart, `tokenize_shard.align` trims.

Encoding is deterministic, and a signal has the same tokens alone and in any batch. Tokenizers that
gain from batches have `encode_batch` beside `encode`; `batching` holds what they share.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np


def num_frames(num_samples: int, hop: int) -> int:
    """The length rule of both streams: ``ceil(num_samples / hop)``."""
    return -(-num_samples // hop)


@runtime_checkable
class SemanticTokenizer(Protocol):
    """Speech to content units.

    Attributes:
        id: names the method and its main sizes.
        sha256: over the stored configuration and weights.
        sample_rate: in Hz, of the signal that the tokenizer works on.
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
    """Speech to a stack of codes per frame, and back.

    Attributes:
        id: names the method and its main sizes.
        sha256: over the stored configuration and weights.
        sample_rate: in Hz, of the signal that goes in and comes out.
        frame_rate: frames per second.
        num_codebooks: Q; the first k codebooks are themselves a codec.
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
    """What a tokenizer has that encodes several signals in one call of its network.

    Attributes:
        equal_lengths: the network mixes what a signal holds with the padding after it (group
            normalisation over time, convolutions or LSTMs that look ahead), so that only signals of
            the same number of tokens share a batch.
    """

    equal_lengths: bool

    def encode_batch(self, wavs: Sequence[np.ndarray], sample_rate: int) -> list[np.ndarray]:
        """Returns for each signal what `encode` returns for it alone, in the given order."""
        ...
