"""Spectral features in NumPy and SciPy: framing, mel filterbank, log-mel, MFCCs, deltas.

A signal of N samples is zero-padded to T * hop samples, T = ceil(N / hop); the window of frame t is
centred on samples [t * hop, (t + 1) * hop). Features of a frame depend on its window only, so they
can be computed for any part of a signal.
"""

import functools

import numpy as np
import scipy.fft

from data_pipeline.tokenizers.base import num_frames


def hop_length(sample_rate: int, frame_rate: float) -> int:
    """Samples per frame.

    Raises:
        ValueError: the frame rate does not divide the sample rate.
    """
    hop = round(sample_rate / frame_rate) if frame_rate > 0 else 0
    if hop < 1 or abs(hop * frame_rate - sample_rate) > 1e-6 * sample_rate:
        raise ValueError(
            f"frame_rate {frame_rate:g} does not divide sample_rate {sample_rate} into integer hops"
        )
    return hop


def frame_signal(wav: np.ndarray, hop: int, window: int) -> np.ndarray:
    """Overlapping frames (T, window) of a signal (N,): a read-only view of a padded copy."""
    frames = num_frames(len(wav), hop)
    centring = (window - hop) // 2  # zeros in front; if negative, samples that are skipped
    padded = np.zeros(max(0, centring) + max(frames * hop, len(wav)) + window, np.float32)
    start = max(0, centring)
    padded[start : start + len(wav)] = wav
    views = np.lib.stride_tricks.sliding_window_view(padded[max(0, -centring) :], window)
    return views[::hop][:frames]


@functools.lru_cache(maxsize=8)
def hann(window: int) -> np.ndarray:
    """Periodic Hann window (window,), float32."""
    phase = np.linspace(-np.pi, np.pi, window + 1)[:-1]
    return (0.5 + 0.5 * np.cos(phase)).astype(np.float32)  # importing scipy.signal takes a second


@functools.lru_cache(maxsize=8)
def mel_filterbank(
    sample_rate: int, n_fft: int, num_mels: int, fmin: float, fmax: float
) -> np.ndarray:
    """Triangular filters on the mel scale 2595 log10(1 + f / 700), each with unit sum.

    Args:
        sample_rate: in Hz.
        n_fft: FFT size.
        num_mels: M, the number of filters.
        fmin: lower edge of the first filter in Hz.
        fmax: upper edge of the last filter in Hz.

    Returns:
        float32 (M, n_fft // 2 + 1).
    """
    edges_mel = np.linspace(
        2595 * np.log10(1 + fmin / 700), 2595 * np.log10(1 + fmax / 700), num_mels + 2
    )
    edges = 700 * (10 ** (edges_mel / 2595) - 1)
    bin_width = sample_rate / n_fft
    # Narrow low-frequency filters must still cover a bin: no slope is steeper than one bin.
    lower = np.minimum(edges[:-2], edges[1:-1] - bin_width)
    upper = np.maximum(edges[2:], edges[1:-1] + bin_width)
    bins = np.arange(n_fft // 2 + 1) * bin_width
    rising = (bins[None, :] - lower[:, None]) / (edges[1:-1] - lower)[:, None]
    falling = (upper[:, None] - bins[None, :]) / (upper - edges[1:-1])[:, None]
    filters = np.maximum(0.0, np.minimum(rising, falling))
    filters /= filters.sum(axis=1, keepdims=True)
    filters = filters.astype(np.float32)
    filters.setflags(write=False)
    return filters


def magnitude_spectrogram(wav: np.ndarray, hop: int, window: int) -> np.ndarray:
    """Hann-windowed magnitudes (T, window // 2 + 1), float32; a full-scale sine peaks near 0.5."""
    taper = hann(window)
    spectrum = scipy.fft.rfft(frame_signal(wav, hop, window) * taper, axis=-1)
    return np.abs(spectrum) / taper.sum()


def log_mel(
    wav: np.ndarray,
    hop: int,
    window: int,
    filters: np.ndarray,
    floor: float,
) -> np.ndarray:
    """Natural logarithm of mel magnitudes, clipped below at `floor`: float32 (T, M)."""
    mel = magnitude_spectrogram(wav, hop, window) @ filters.T
    return np.log(np.maximum(mel, floor))


def mfcc(log_mels: np.ndarray, num_coefficients: int) -> np.ndarray:
    """Mel-frequency cepstral coefficients: orthonormal DCT-II of log-mels (T, M) -> (T, C)."""
    return scipy.fft.dct(log_mels, type=2, norm="ortho", axis=-1)[:, :num_coefficients]


def deltas(features: np.ndarray, reach: int = 2) -> np.ndarray:
    """Regression slope over 2 * reach + 1 frames, edges repeated: (T, C) -> (T, C)."""
    padded = np.pad(features, ((reach, reach), (0, 0)), mode="edge")
    total = len(features)
    slope = np.zeros_like(features)
    for offset in range(1, reach + 1):
        ahead = padded[reach + offset : reach + offset + total]
        behind = padded[reach - offset : reach - offset + total]
        slope += offset * (ahead - behind)
    return slope / (2 * sum(offset**2 for offset in range(1, reach + 1)))
