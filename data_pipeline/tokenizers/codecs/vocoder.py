"""Vocoder without training: mel inversion and phase reconstruction.

Magnitudes are estimated from mel frames by non-negative least squares, phases by the fast
Griffin-Lim algorithm (Perraudin, Balazs, Sondergaard 2013) over all frames of a signal.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft

from data_pipeline.tokenizers.semantic.features import hann

# On synthetic speech a beginning agrees with the whole within -97 dB but for its last 20 frames,
# which are 10 iterations with windows of 3 hops.
_ITERATIONS_HEARD = 12


@dataclass(frozen=True)
class GriffinLim:
    """Fast Griffin-Lim phase reconstruction for Hann-windowed magnitudes.

    Attributes:
        hop: samples per frame.
        window: length of the window in samples, a multiple of the hop, at least twice as long.
        iterations: number of iterations.
        momentum: 0 is plain Griffin-Lim.
    """

    hop: int
    window: int
    iterations: int
    momentum: float = 0.99

    def __post_init__(self):
        if self.window % self.hop or self.window < 2 * self.hop:
            raise ValueError(f"window {self.window} is not a multiple (>= 2) of hop {self.hop}")

    @property
    def lookahead(self) -> int:
        """Frames at the end of a signal whose samples depend on the frames that follow.

        Phases start at random ones that depend on the number of their frame alone, and an iteration
        reaches the frames that overlap with a frame. Those that only later iterations reach change
        the samples by less than -90 dB.
        """
        overlapping = self.window // self.hop - 1
        return min(self.iterations, _ITERATIONS_HEARD) * overlapping + -(-overlapping // 2)

    def __call__(self, magnitudes: np.ndarray) -> np.ndarray:
        """Returns the signal, float32 (T * hop,), of magnitudes float32 (T, window // 2 + 1).

        Magnitudes are scaled as in `features.magnitude_spectrogram`.
        """
        magnitudes = magnitudes * hann(self.window).sum()
        angles = np.random.default_rng(0).uniform(0, 2 * np.pi, magnitudes.shape)
        spectrum = magnitudes * np.exp(1j * angles).astype(np.complex64)
        previous = np.zeros_like(spectrum)
        for _ in range(self.iterations):
            consistent = self._analyse(self._synthesise(spectrum))
            ahead = consistent + self.momentum * (consistent - previous)
            previous = consistent
            spectrum = ahead * (magnitudes / np.maximum(np.abs(ahead), 1e-12))
        signal = self._synthesise(spectrum)
        start = (self.window - self.hop) // 2
        return signal[start : start + len(magnitudes) * self.hop]

    def _analyse(self, signal: np.ndarray) -> np.ndarray:
        frames = np.lib.stride_tricks.sliding_window_view(signal, self.window)[:: self.hop]
        return scipy.fft.rfft(frames * hann(self.window), axis=-1)

    def _synthesise(self, spectrum: np.ndarray) -> np.ndarray:
        """Least-squares inverse: overlap-add of windowed frames over the sum of squared windows."""
        window = hann(self.window)
        frames = scipy.fft.irfft(spectrum, n=self.window, axis=-1) * window
        signal = _overlap_add(frames, self.hop)
        weight = _overlap_add(np.broadcast_to(window**2, frames.shape), self.hop)
        return signal / np.maximum(weight, 1e-3)


def _overlap_add(frames: np.ndarray, hop: int) -> np.ndarray:
    """Overlap-add: (T, window) -> ((T - 1) * hop + window,); window is a multiple of hop."""
    count, window = frames.shape
    overlap = window // hop
    total = np.zeros((count + overlap - 1, hop), frames.dtype)
    parts = frames.reshape(count, overlap, hop)
    for part in range(overlap):
        total[part : part + count] += parts[:, part]
    return total.reshape(-1)


def invert_mel(mel: np.ndarray, filters: np.ndarray, iterations: int = 20) -> np.ndarray:
    """Non-negative least-squares inverse of the filterbank, by multiplicative updates.

    Args:
        mel: magnitudes (not logarithms), float32 (T, M).
        filters: (M, bins).
        iterations: of the updates (Lee and Seung 1999, with the filterbank held fixed).

    Returns:
        float32 (T, bins).
    """
    # Initialise by spreading the level of every filter over its bins; updates keep it positive.
    spread = filters / np.maximum(filters.sum(axis=0), 1e-8)
    magnitudes = mel @ spread + 1e-9
    target = mel @ filters
    gram = filters.T @ filters
    for _ in range(iterations):
        magnitudes = magnitudes * (target / (magnitudes @ gram + 1e-12))
    return magnitudes
