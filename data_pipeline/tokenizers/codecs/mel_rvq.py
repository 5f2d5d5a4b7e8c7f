"""Acoustic codec without a pretrained model: residual vector quantisation of log-mel frames.

The latent of a frame is its log-mel vector minus the corpus mean. Codebook q greedily quantises the
residual of the previous codebooks, so that the first k codebooks alone are a codec of k codebooks.
The decoder sums the chosen vectors; a linear map of each frame and its two neighbours, fitted per
number of codebooks, removes part of the quantisation error (a sixth of its power on synthesised
speech, at no bit rate); then the phase is reconstructed.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from data_pipeline.audio.io import resample
from data_pipeline.tokenizers.codecs.residual import fit_smoother, with_neighbours
from data_pipeline.tokenizers.codecs.residual_codec import ResidualCodec
from data_pipeline.tokenizers.codecs.vocoder import GriffinLim, invert_mel
from data_pipeline.tokenizers.semantic import features, kmeans


@dataclasses.dataclass(frozen=True)
class MelRVQConfig:
    """Frames, codebooks and signal reconstruction."""

    sample_rate: int = 16_000  # Hz
    frame_rate: float = 50.0  # frames per second; divides the sample rate
    num_codebooks: int = 4
    codebook_size: int = 256
    num_mels: int = 80
    window_hops: int = 3  # length of the Hann window in frames
    floor: float = 1e-5  # of mel magnitudes; a full-scale sine has about 0.2
    iterations: int = 32  # of Griffin-Lim

    def __post_init__(self):
        features.hop_length(self.sample_rate, self.frame_rate)
        if self.num_codebooks < 1:
            raise ValueError(f"num_codebooks {self.num_codebooks} is not positive")
        if not 2 <= self.codebook_size <= 1 << 16:
            raise ValueError(f"codebook_size {self.codebook_size} is not in [2, 65536]")

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return features.hop_length(self.sample_rate, self.frame_rate)

    @property
    def window(self) -> int:
        """Samples per window."""
        return self.window_hops * self.hop

    @property
    def filters(self) -> np.ndarray:
        """The mel filterbank (num_mels, window // 2 + 1)."""
        return features.mel_filterbank(
            self.sample_rate, self.window, self.num_mels, 0.0, self.sample_rate / 2
        )


class MelRVQ(ResidualCodec):
    """The codec; implements `base.AcousticCodec`. Its latents have D = num_mels numbers."""

    kind: ClassVar[str] = "mel_rvq"
    config_type: ClassVar[type] = MelRVQConfig

    def __init__(self, config: MelRVQConfig, weights: dict[str, np.ndarray], sha256: str):
        """See `load` and `fit`."""
        super().__init__(config, weights, sha256)
        self.context_frames = config.window_hops
        self._mean = weights["mean"]
        self._smoothers = weights["smoothers"]
        self._phase = GriffinLim(config.hop, config.window, config.iterations)
        self.lookahead_frames = self._phase.lookahead + 1  # and a neighbour of the smoother

    def encode(self, wav: np.ndarray, sample_rate: int) -> np.ndarray:
        """See `ResidualCodec.encode`."""
        wav = resample(wav, sample_rate, self.sample_rate)
        return self._quantise(wav, raw_features(self.config, wav) - self._mean)

    def _quantise(self, wav: np.ndarray, residual: np.ndarray) -> np.ndarray:
        """Codes (Q, T) of the latents (T, D) of a signal at the codec's rate."""
        codes = np.empty((self.num_codebooks, len(residual)), np.uint16)
        for row, codebook in zip(codes, self.codebooks, strict=True):
            row[:] = kmeans.nearest(residual, codebook)
            residual = residual - codebook[row]
        return codes

    def _render(self, latents: np.ndarray, depth: int) -> np.ndarray:
        smoothed = with_neighbours(latents) @ self._smoothers[depth - 1]
        log_mel = np.maximum(smoothed + self._mean, math.log(self.config.floor))
        return self._phase(invert_mel(np.exp(log_mel), self.config.filters))


def raw_features(config: MelRVQConfig, wav: np.ndarray) -> np.ndarray:
    """Log-mel frames, float32 (T, num_mels), of a signal (N,) at the config's sample rate."""
    return features.log_mel(wav, config.hop, config.window, config.filters, config.floor)


def fit(
    config: MelRVQConfig,
    utterances: Sequence[np.ndarray],
    seed: int,
    on_iteration: Callable[[int], None] = lambda steps: None,
    iterations: int = 12,
    first_codes: Sequence[np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Fits the mean, then codebook and smoother of one level after the other.

    Args:
        config: of the codec.
        utterances: `raw_features` of each utterance.
        seed: of k-means.
        on_iteration: called with 1 after each iteration, for progress.
        iterations: of k-means, per codebook.
        first_codes: given codes (T,) of the first codebook for each utterance; its vectors are then
            the mean frame of each code. None fits it like the others.

    Returns:
        The weights: `mean` (D,), `codebooks` (Q, N, D), `smoothers` (Q, 3 * D, D); all float32.
    """
    frames = np.concatenate(utterances)
    mean = frames.mean(axis=0, dtype=np.float64).astype(np.float32)
    target = frames - mean
    residual = target.copy()
    starts = np.cumsum([len(utterance) for utterance in utterances])[:-1]
    codebooks, smoothers = [], []
    for q in range(config.num_codebooks):
        if q == 0 and first_codes is not None:
            codes = np.concatenate(first_codes).astype(np.int64)
            codebook = _mean_of_code(residual, codes, config.codebook_size)
        else:
            codebook = kmeans.fit_kmeans(
                residual, config.codebook_size, seed + q, iterations, on_iteration
            )
            codes = kmeans.nearest(residual, codebook)
        residual -= codebook[codes]
        codebooks.append(codebook)
        quantised = np.split(target - residual, starts)
        smoothers.append(fit_smoother(quantised, target, np.eye(target.shape[1])))
    return {"mean": mean, "codebooks": np.stack(codebooks), "smoothers": np.stack(smoothers)}


def _mean_of_code(frames: np.ndarray, codes: np.ndarray, size: int) -> np.ndarray:
    """The mean of the frames (T, D) of each code: float32 (size, D), zero for unused codes."""
    totals = np.zeros((size, frames.shape[1]))
    np.add.at(totals, codes, frames)
    counts = np.bincount(codes, minlength=size)[:, None]
    return (totals / np.maximum(counts, 1)).astype(np.float32)
