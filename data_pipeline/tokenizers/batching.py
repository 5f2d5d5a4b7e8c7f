"""Encodes many signals with one tokenizer: batching by length, batch mismatch, and chunks.

Tokens must not depend on the other signals of the batch. But batched arithmetic may round
differently, and then a frame close to the boundary between two tokens can change: `mismatch` counts
how often.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.audio.io import resample
from data_pipeline.tokenizers.base import (
    AcousticCodec,
    BatchTokenizer,
    SemanticTokenizer,
    num_frames,
)

# Padding included: the first convolution of a speech model then outputs 0.8 GB.
MAX_BATCH_SECONDS = 120.0


def plan_batches(lengths: Sequence[int], equal_lengths: bool, max_size: int) -> list[list[int]]:
    """Groups signals by length into batches with little padding.

    Args:
        lengths: of the signals, in any unit.
        equal_lengths: only signals of equal length share a batch.
        max_size: largest batch, as number of signals times longest length; a longer signal is a
            batch of its own.

    Returns:
        Indices of the signals of each batch; every signal is in exactly one.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        batch = batches[-1] if batches else []
        fits = batch and (len(batch) + 1) * lengths[index] <= max_size
        if fits and (not equal_lengths or lengths[batch[0]] == lengths[index]):
            batch.append(index)
        else:
            batches.append([index])
    return batches


def encode_in_batches(
    wavs: Sequence[np.ndarray],
    hop: int,
    sample_rate: int,
    equal_lengths: bool,
    encode: Callable[[list[np.ndarray]], list[np.ndarray]],
    empty: np.ndarray,
) -> list[np.ndarray]:
    """Runs `encode` on batches of signals; the results are in the order of the signals.

    Args:
        wavs: float32 (N,) at `sample_rate`.
        hop: samples per token.
        sample_rate: in Hz.
        equal_lengths: see `base.BatchTokenizer`; lengths are compared in tokens.
        encode: tokenises one batch of non-empty signals.
        empty: the tokens of a signal without samples.
    """
    nonempty = [index for index, wav in enumerate(wavs) if len(wav)]
    lengths = [num_frames(len(wavs[index]), hop) for index in nonempty]
    max_size = int(MAX_BATCH_SECONDS * sample_rate / hop)
    results = [empty] * len(wavs)
    for batch in plan_batches(lengths, equal_lengths, max_size):
        indices = [nonempty[number] for number in batch]
        encoded = encode([wavs[index] for index in indices])
        for index, tokens in zip(indices, encoded, strict=True):
            results[index] = tokens
    return results


def encode_many(
    tokenizer: SemanticTokenizer | AcousticCodec, wavs: Sequence[np.ndarray], sample_rate: int
) -> list[np.ndarray]:
    """Tokens of every signal: in batches if the tokenizer supports them, else one by one."""
    if isinstance(tokenizer, BatchTokenizer):
        return tokenizer.encode_batch(wavs, sample_rate)
    return [tokenizer.encode(wav, sample_rate) for wav in wavs]


@dataclass(frozen=True)
class Mismatch:
    """Difference between tokens encoded in batches and one signal at a time.

    Attributes:
        signals: number of signals compared.
        tokens: number of tokens compared; for a codec, the codes of all codebooks.
        different: number of tokens that differ.
        lengths: number of signals whose lengths differ; all of their tokens count as different.
    """

    signals: int
    tokens: int
    different: int
    lengths: int

    @property
    def rate(self) -> float:
        """Fraction of tokens that differ."""
        return self.different / self.tokens if self.tokens else 0.0

    def to_json(self) -> dict[str, Any]:
        """The values that `dataset.json` stores."""
        return {
            "signals": self.signals,
            "tokens": self.tokens,
            "different": self.different,
            "rate": self.rate,
        }


def mismatch(
    tokenizer: SemanticTokenizer | AcousticCodec, wavs: Sequence[np.ndarray], sample_rate: int
) -> Mismatch:
    """Encodes signals one by one and in batches, and compares.

    Args:
        tokenizer: of either stream.
        wavs: float32 (N,) each, of varying lengths as in the corpus.
        sample_rate: in Hz.
    """
    return compare(
        [tokenizer.encode(wav, sample_rate) for wav in wavs],
        encode_many(tokenizer, wavs, sample_rate),
    )


def compare(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> Mismatch:
    """Counts how two encodings of the same signals differ."""
    tokens = different = lengths = 0
    for one, other in zip(expected, found, strict=True):
        tokens += one.size
        if one.shape != other.shape:
            lengths += 1
            different += one.size
        else:
            different += int(np.count_nonzero(one != other))
    return Mismatch(len(expected), tokens, different, lengths)


def encode_in_chunks(
    tokenizer: SemanticTokenizer | AcousticCodec,
    wav: np.ndarray,
    sample_rate: int,
    chunk_seconds: float,
) -> np.ndarray:
    """Tokens of a long signal, encoded in chunks that overlap by the tokenizer's context.

    Args:
        tokenizer: one that declares `context_frames`, the number of frames on either side that a
            token depends on.
        wav: float32 (N,).
        sample_rate: in Hz; the signal is resampled before it is cut.
        chunk_seconds: of audio in a chunk, without its context.

    Returns:
        The tokens that `encode` returns for the whole signal.

    Raises:
        ValueError: the tokenizer's context is unbounded: chunks would change its tokens.
    """
    context = getattr(tokenizer, "context_frames", None)
    if context is None:
        raise ValueError(f"{tokenizer.id} needs the whole signal: chunks would change its tokens")
    wav = resample(wav, sample_rate, tokenizer.sample_rate)
    hop = round(tokenizer.sample_rate / tokenizer.frame_rate)
    step = max(1, int(chunk_seconds * tokenizer.frame_rate))
    parts = []
    for start in range(0, num_frames(len(wav), hop), step):
        first = max(0, start - context)
        chunk = wav[first * hop : (start + step + context) * hop]
        tokens = tokenizer.encode(chunk, tokenizer.sample_rate)
        parts.append(tokens[..., start - first : start - first + step])
    return np.concatenate(parts, axis=-1) if parts else tokenizer.encode(wav, sample_rate)
