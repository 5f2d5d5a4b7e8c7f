"""Semantic units without a pretrained model: k-means over MFCCs with deltas.

These are the targets of HuBERT's first iteration (arXiv 2106.07447, section IV.B). To encode
content rather than speaker and loudness, signals are scaled to a fixed level, and features are
normalised to zero mean and unit variance per utterance. Statistics of short utterances are
unreliable, so they are smoothed with the corpus statistics, which count like `prior_seconds` of
audio.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from data_pipeline.audio.io import SILENCE_PEAK, resample
from data_pipeline.tokenizers import storage
from data_pipeline.tokenizers.semantic import features, kmeans

_LEVEL = 0.1  # RMS level that signals are scaled to
_SMALLEST_DEVIATION = 1e-3


@dataclasses.dataclass(frozen=True)
class MFCCKMeansConfig:
    """Feature extraction and number of clusters."""

    sample_rate: int = 16_000  # Hz
    frame_rate: float = 50.0  # units per second; divides the sample rate
    vocab_size: int = 40  # clusters; more of them also encode the speaker
    num_coefficients: int = 13
    num_mels: int = 40
    window: int = 400  # samples
    floor: float = 1e-4  # of mel magnitudes, after scaling
    prior_seconds: float = 0.5  # weight of the corpus statistics

    def __post_init__(self):
        features.hop_length(self.sample_rate, self.frame_rate)
        if not 2 <= self.vocab_size <= 1 << 16:
            raise ValueError(f"vocab_size {self.vocab_size} is not in [2, 65536]")
        if not 0 < self.num_coefficients <= self.num_mels:
            raise ValueError(
                f"num_coefficients {self.num_coefficients} is not in [1, num_mels {self.num_mels}]"
            )

    @property
    def hop(self) -> int:
        """Samples per unit."""
        return features.hop_length(self.sample_rate, self.frame_rate)


class MFCCKMeans:
    """The tokenizer; implements `base.SemanticTokenizer`."""

    kind: ClassVar[str] = "mfcc_kmeans"

    def __init__(self, config: MFCCKMeansConfig, weights: dict[str, np.ndarray], sha256: str):
        """See `load` and `fit`."""
        self.config = config
        self.sha256 = sha256
        self.id = f"{self.kind}-{config.vocab_size}-{config.frame_rate:g}hz"
        self.sample_rate = config.sample_rate
        self.frame_rate = config.frame_rate
        self.vocab_size = config.vocab_size
        self._weights = weights

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> "MFCCKMeans":
        """Reads a fitted tokenizer.

        Raises:
            UserError: the directory is not one, or was modified.
        """
        stored = storage.load_tokenizer(directory)
        return cls(stored.parse_config(MFCCKMeansConfig, directory), stored.weights, stored.sha256)

    def encode(self, wav: np.ndarray, sample_rate: int) -> np.ndarray:
        """Units of a signal.

        The units do not depend on the signal's level. A silent signal (peak below 1e-4) is
        normalised with the corpus statistics alone, and so gets the unit of silence.

        Args:
            wav: float32 (N,).
            sample_rate: of the signal, in Hz; resampled if it is not the tokenizer's.

        Returns:
            uint16 (T,), T = ceil(N / hop) after resampling.
        """
        raw = raw_features(self.config, resample(wav, sample_rate, self.sample_rate))
        return self.quantise(raw, silent=np.abs(wav).max(initial=0.0) < SILENCE_PEAK)

    def quantise(self, raw: np.ndarray, silent: bool = False) -> np.ndarray:
        """Units, uint16 (T,), of `raw_features` (T, C) of one signal."""
        mean, deviation = self._weights["mean"], self._weights["deviation"]
        if not silent:
            mean, deviation = _statistics(self.config, raw, mean, deviation)
        normalised = (raw - mean) / deviation
        return kmeans.nearest(normalised, self._weights["centroids"]).astype(np.uint16)


def raw_features(config: MFCCKMeansConfig, wav: np.ndarray) -> np.ndarray:
    """MFCC, deltas and second deltas before normalisation: float32 (T, 3 * num_coefficients).

    Args:
        config: of the tokenizer.
        wav: float32 (N,) at the config's sample rate; scaled to a fixed level unless silent.
    """
    if np.abs(wav).max(initial=0.0) >= SILENCE_PEAK:
        wav = wav * (_LEVEL / np.sqrt(np.mean(np.square(wav, dtype=np.float64)))).astype(np.float32)
    filters = features.mel_filterbank(
        config.sample_rate, config.window, config.num_mels, 0.0, config.sample_rate / 2
    )
    log_mels = features.log_mel(wav, config.hop, config.window, filters, config.floor)
    static = features.mfcc(log_mels, config.num_coefficients)
    first = features.deltas(static)
    return np.concatenate([static, first, features.deltas(first)], axis=1)


def fit(
    config: MFCCKMeansConfig,
    utterances: Sequence[np.ndarray],
    seed: int,
    on_iteration: Callable[[int], None] = lambda steps: None,
    iterations: int = 20,
) -> dict[str, np.ndarray]:
    """Computes the corpus statistics and fits the clusters.

    Args:
        config: of the tokenizer.
        utterances: `raw_features` of each utterance.
        seed: of k-means.
        on_iteration: called with 1 after each iteration, for progress.
        iterations: of k-means.

    Returns:
        The weights: `mean` and `deviation` (C,), `centroids` (vocab_size, C); all float32.
    """
    mean = np.mean([raw.mean(axis=0, dtype=np.float64) for raw in utterances], axis=0)
    variance = np.mean([raw.var(axis=0, dtype=np.float64) for raw in utterances], axis=0)
    mean = mean.astype(np.float32)
    deviation = np.maximum(np.sqrt(variance), _SMALLEST_DEVIATION).astype(np.float32)
    normalised = []
    for raw in utterances:
        smoothed_mean, smoothed_deviation = _statistics(config, raw, mean, deviation)
        normalised.append((raw - smoothed_mean) / smoothed_deviation)
    centroids = kmeans.fit_kmeans(
        np.concatenate(normalised), config.vocab_size, seed, iterations, on_iteration
    )
    return {"mean": mean, "deviation": deviation, "centroids": centroids}


def _statistics(
    config: MFCCKMeansConfig, raw: np.ndarray, mean: np.ndarray, deviation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation (C,) of an utterance, shrunk towards those of the corpus."""
    prior = config.prior_seconds * config.frame_rate
    weight = len(raw) / (len(raw) + prior)
    smoothed = weight * raw.mean(axis=0) + (1 - weight) * mean
    variance = weight * raw.var(axis=0) + (1 - weight) * np.square(deviation)
    return smoothed, np.maximum(np.sqrt(variance), _SMALLEST_DEVIATION)
