"""Acoustic codec without a pretrained model: residual vector quantisation of WORLD parameters.

Vocoder frames of about 5 ms are stacked to a frame, four at 50 Hz: at one per 20 ms the vocoder
blurs consonants. Their parameters, weighted by how much an error of each is heard, are projected on
their principal components: the latent. Codes come from a beam search over the codebooks, so the
first k codebooks alone are a codec of k codebooks. The decoder sums the chosen vectors; a linear
map of each frame and its two neighbours, fitted per number of codebooks, estimates the parameters
of all vocoder frames; formants, which quantisation flattens, are deepened again; then WORLD
synthesises.

Decoding is causal up to `WorldRVQConfig.lookahead_frames`: more codes do not change the samples
before.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from data_pipeline.audio.io import resample
from data_pipeline.tokenizers.base import num_frames
from data_pipeline.tokenizers.codecs.residual import (
    beam_search,
    fit_smoother,
    with_neighbours,
)
from data_pipeline.tokenizers.codecs.residual_codec import ResidualCodec
from data_pipeline.tokenizers.codecs.world_vocoder import WorldVocoder
from data_pipeline.tokenizers.semantic import features, kmeans

_HIGHEST_RATE = 16_000  # Hz, of sample rates that follow from the frame rate
_SUBFRAME_SECONDS = 0.005
_SMOOTHED_FRAMES = 40_000  # at most, to fit smoothers on


@dataclasses.dataclass(frozen=True)
class WorldRVQConfig:
    """Frames, parameters and codebooks.

    Sample rate and subframes that are 0 follow from the frame rate, and are stored as they follow:
    25, 50 and 100 Hz have 8, 4 and 2 subframes of 5 ms at 16 kHz, 75 Hz has 3 of 4.4 ms at 15,975
    Hz, the highest rate of up to 16 kHz at which they have whole numbers of samples.

    The weights of pitch, voicing and aperiodicity are relative to the log amplitude of one point of
    the envelope. They were not tuned; the enhancement was compared with none (docs/tokenizers.md).
    """

    sample_rate: int = 0  # Hz; 0: the highest up to 16 kHz that fits the subframes
    frame_rate: float = 50.0  # frames per second; divides the sample rate
    num_codebooks: int = 4
    codebook_size: int = 256
    subframes: int = 0  # vocoder frames per frame; 0: as many as make about 5 ms each
    envelope_points: int = 48
    latent_size: int = 80
    pitch_floor: float = 60.0  # Hz
    pitch_ceiling: float = 500.0  # Hz
    pitch_weight: float = 14.0
    voicing_weight: float = 2.6
    aperiodicity_weight: float = 0.3
    beam: int = 4  # prefixes kept when encoding; 1 is greedy
    enhancement: float = 1.3  # of formants; 1 is none

    def __post_init__(self):
        if not self.frame_rate > 0:
            raise ValueError(f"frame_rate {self.frame_rate} is not positive")
        if not self.subframes:
            object.__setattr__(self, "subframes", self._subframes())
        if not self.sample_rate:
            step = self.frame_rate * self.subframes
            object.__setattr__(self, "sample_rate", round(_HIGHEST_RATE // step * step))
        hop = features.hop_length(self.sample_rate, self.frame_rate)
        if self.subframes < 1 or hop % self.subframes:
            raise ValueError(f"subframes {self.subframes} do not divide the {hop} samples of a hop")
        if self.num_codebooks < 1:
            raise ValueError(f"num_codebooks {self.num_codebooks} is not positive")
        if not 2 <= self.codebook_size <= 1 << 16:
            raise ValueError(f"codebook_size {self.codebook_size} is not in [2, 65536]")
        if self.beam < 1:
            raise ValueError(f"beam {self.beam} is not positive")
        if self.envelope_points < 2:
            raise ValueError(f"envelope_points {self.envelope_points} is not 2 or more")
        width = self.subframes * self.vocoder.width
        if not 1 <= self.latent_size <= width:
            raise ValueError(f"latent_size {self.latent_size} is not in [1, {width}]")

    def _subframes(self) -> int:
        """The number whose length is nearest to 5 ms, of those that the sample rate allows."""
        nearest = 1 / (self.frame_rate * _SUBFRAME_SECONDS)
        if not self.sample_rate:
            return max(1, round(nearest))
        divisors = [n for n in range(1, self.hop + 1) if self.hop % n == 0]
        return min(divisors, key=lambda number: abs(math.log(number / nearest)))

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return features.hop_length(self.sample_rate, self.frame_rate)

    @property
    def vocoder(self) -> WorldVocoder:
        """The vocoder of the subframes."""
        return WorldVocoder(
            self.sample_rate,
            self.hop // self.subframes,
            self.envelope_points,
            self.pitch_floor,
            self.pitch_ceiling,
        )

    @property
    def lookahead_frames(self) -> int:
        """Frames at the end of a decoded signal whose samples later codes change.

        A neighbour of the smoother, the frames in half an FFT of the synthesis, and one towards
        which the parameters are interpolated.
        """
        return 2 + math.ceil(self.vocoder.fft_size / 2 / self.hop)

    @property
    def weights(self) -> np.ndarray:
        """Weight of each parameter of a frame, float32 (subframes * width,)."""
        weights = np.ones(self.vocoder.width, np.float32)
        weights[self.envelope_points :] = self.aperiodicity_weight
        weights[self.envelope_points] = self.pitch_weight
        weights[self.envelope_points + 1] = self.voicing_weight
        return np.tile(weights, self.subframes)


class WorldRVQ(ResidualCodec):
    """The codec; implements `base.AcousticCodec`, and needs pyworld to encode and to decode."""

    kind: ClassVar[str] = "world_rvq"
    config_type: ClassVar[type] = WorldRVQConfig
    context_frames = None  # pitch is tracked over the whole signal

    def __init__(self, config: WorldRVQConfig, weights: dict[str, np.ndarray], sha256: str):
        """See `load` and `fit`."""
        super().__init__(config, weights, sha256)
        self.lookahead_frames = config.lookahead_frames
        self._mean = weights["mean"]
        self._projection = weights["projection"]
        self._smoothers = weights["smoothers"]

    def encode(self, wav: np.ndarray, sample_rate: int) -> np.ndarray:
        """See `ResidualCodec.encode`.

        Raises:
            UserError: pyworld is not installed.
        """
        wav = resample(wav, sample_rate, self.sample_rate)
        latents = (raw_features(self.config, wav) - self._mean) @ self._projection
        return beam_search(latents, self.codebooks, self.config.beam)

    def _render(self, latents: np.ndarray, depth: int) -> np.ndarray:
        stacked = with_neighbours(latents) @ self._smoothers[depth - 1] + self._mean
        vocoder = self.config.vocoder
        parameters = stacked.reshape(-1, vocoder.width)
        return vocoder.synthesise(vocoder.enhance(parameters, self.config.enhancement))


def raw_features(config: WorldRVQConfig, wav: np.ndarray) -> np.ndarray:
    """Vocoder parameters of a signal (N,) at the config's sample rate.

    Returns:
        float32 (T, subframes * width), the subframes of a frame one after the other.

    Raises:
        UserError: pyworld is not installed.
    """
    frames = num_frames(len(wav), config.hop)
    width = config.vocoder.width
    if not frames:
        return np.zeros((0, config.subframes * width), np.float32)
    return config.vocoder.analyse(wav, config.subframes * frames).reshape(frames, -1)


def fit(
    config: WorldRVQConfig,
    utterances: Sequence[np.ndarray],
    seed: int,
    on_iteration: Callable[[int], None] = lambda steps: None,
    iterations: int = 12,
) -> dict[str, np.ndarray]:
    """Fits the projection, the codebooks one after the other, and the smoothers.

    Args:
        config: of the codec.
        utterances: `raw_features` of each utterance.
        seed: of k-means.
        on_iteration: called with 1 after each iteration, for progress.
        iterations: of k-means, per codebook.

    Returns:
        The weights: `mean` (W,), `projection` (W, D), `codebooks` (Q, N, D), `smoothers`
        (Q, 3 * D, W); all float32. W is the number of parameters of a frame.
    """
    frames = np.concatenate(utterances)
    mean = frames.mean(axis=0, dtype=np.float64).astype(np.float32)
    target = frames - mean
    components = _principal_components(target * config.weights, config.latent_size)
    projection = config.weights[:, None] * components
    latents = target @ projection
    codebooks, residual = [], latents.copy()
    for q in range(config.num_codebooks):
        codebook = kmeans.fit_kmeans(
            residual, config.codebook_size, seed + q, iterations, on_iteration
        )
        residual -= codebook[kmeans.nearest(residual, codebook)]
        codebooks.append(codebook)
    weights = {"mean": mean, "projection": projection, "codebooks": np.stack(codebooks)}
    prior = components.T / config.weights
    lengths = [len(utterance) for utterance in utterances]
    return weights | {"smoothers": _fit_smoothers(config, weights, latents, target, prior, lengths)}


def _principal_components(points: np.ndarray, count: int) -> np.ndarray:
    """The orthonormal directions of largest variance of centred points: float32 (W, count)."""
    points = points.astype(np.float64)
    _, vectors = np.linalg.eigh(points.T @ points / len(points))
    return vectors[:, ::-1][:, :count].astype(np.float32)


def _fit_smoothers(
    config: WorldRVQConfig,
    weights: dict[str, np.ndarray],
    latents: np.ndarray,
    target: np.ndarray,
    prior: np.ndarray,
    lengths: Sequence[int],
) -> np.ndarray:
    """A smoother for each number of codebooks, float32 (Q, 3 * D, W)."""
    ends = np.cumsum(lengths)
    used = max(1, int(np.searchsorted(ends, _SMOOTHED_FRAMES, side="right")))  # utterances
    latents, target = latents[: ends[used - 1]], target[: ends[used - 1]]
    codebooks = weights["codebooks"]
    codes = beam_search(latents, codebooks, config.beam)
    quantised = np.zeros_like(latents)
    smoothers = []
    for codebook, row in zip(codebooks, codes, strict=True):
        quantised += codebook[row]
        smoothers.append(fit_smoother(np.split(quantised, ends[: used - 1]), target, prior))
    return np.stack(smoothers)
