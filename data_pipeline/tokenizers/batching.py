"""Many signals through one tokenizer: batches by length, the mismatch they cause, and chunks.

A tokenizer's tokens must not depend on what else is in the batch. Where the arithmetic of a batch
rounds otherwise than that of one signal, a token that lies on the border between two may still come
out differently: `mismatch` counts how often.
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

# Of audio, padding included: the first convolution of a speech model then makes 0.8 GB of floats.
MAX_BATCH_SECONDS = 120.0


def plan_batches(lengths: Sequence[int], equal_lengths: bool, most: int) -> list[list[int]]:
    """Groups signals so that little of a batch is padding.

    Args:
        lengths: of the signals, in any unit.
        equal_lengths: signals of one length only share a batch.
        most: number of signals times the longest length, at most, in a batch; a longer signal is a
            batch of its own.

    Returns:
        Indices of the signals of each batch, each signal once; the same for any order of equals.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        batch = batches[-1] if batches else []
        fits = batch and (len(batch) + 1) * lengths[index] <= most
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
    """Runs `encode` on batches of signals and returns its results in the signals' order.

    Args:
        wavs: float32 (N,) at `sample_rate`.
        hop: samples per token.
        sample_rate: in Hz.
        equal_lengths: see `base.BatchTokenizer`; lengths are compared in tokens.
        encode: of one batch; its signals are not empty.
        empty: the tokens of a signal without samples.
    """
    filled = [index for index, wav in enumerate(wavs) if len(wav)]
    lengths = [num_frames(len(wavs[index]), hop) for index in filled]
    most = int(MAX_BATCH_SECONDS * sample_rate / hop)
    results = [empty] * len(wavs)
    for batch in plan_batches(lengths, equal_lengths, most):
        chosen = [filled[number] for number in batch]
        found = encode([wavs[index] for index in chosen])
        for index, tokens in zip(chosen, found, strict=True):
            results[index] = tokens
    return results


def encode_many(
    tokenizer: SemanticTokenizer | AcousticCodec, wavs: Sequence[np.ndarray], sample_rate: int
) -> list[np.ndarray]:
    """Tokens of every signal: in batches where the tokenizer has them, else one by one."""
    if isinstance(tokenizer, BatchTokenizer):
        return tokenizer.encode_batch(wavs, sample_rate)
    return [tokenizer.encode(wav, sample_rate) for wav in wavs]


@dataclass(frozen=True)
class Mismatch:
    """How far tokens in batches differ from those of each signal alone.

    Attributes:
        signals: that were compared.
        tokens: that were compared; of a codec, the codes of all codebooks.
        different: tokens that differ.
        lengths: signals whose number of tokens differs; all of their tokens count as different.
    """

    signals: int
    tokens: int
    different: int
    lengths: int

    @property
    def rate(self) -> float:
        """Share of tokens that differ."""
        return self.different / self.tokens if self.tokens else 0.0

    def to_json(self) -> dict[str, Any]:
        """For `dataset.json`."""
        return {
            "signals": self.signals,
            "tokens": self.tokens,
            "different": self.different,
            "rate": self.rate,
        }


def mismatch(
    tokenizer: SemanticTokenizer | AcousticCodec, wavs: Sequence[np.ndarray], sample_rate: int
) -> Mismatch:
    """Encodes signals alone and in batches and compares.

    Args:
        tokenizer: of either stream.
        wavs: float32 (N,) each; of various lengths, as the corpus has them.
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
    """Tokens of a long signal, from chunks that overlap by the tokenizer's context.

    Args:
        tokenizer: one that declares `context_frames`, how many frames before and after its own a
            token depends on at most.
        wav: float32 (N,).
        sample_rate: in Hz; resampled as a whole when it is not the tokenizer's.
        chunk_seconds: of audio in a chunk, context not counted.

    Returns:
        What `encode` returns for the whole signal.

    Raises:
        ValueError: the tokenizer's context is unbounded: chunks would change its tokens.
    """
    context = getattr(tokenizer, "context_frames", None)
    if context is None:
        raise ValueError(f"{tokenizer.id} looks at a whole signal: its chunks are other signals")
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
