"""Ways to degrade a recording: noise, a narrow band, mp3."""

import io
from collections.abc import Callable

import numpy as np
import soundfile

from data_pipeline.audio.io import resample

_NARROW = 8_000  # Hz
Degrade = Callable[[np.ndarray, int, int], np.ndarray]  # waveform, its rate, seed


def noisy(ratio_db: float) -> Degrade:
    """White noise of the recording's own power over a signal-to-noise ratio in dB."""

    def degrade(wav: np.ndarray, rate: int, seed: int) -> np.ndarray:
        del rate
        noise = np.random.default_rng(seed).standard_normal(len(wav)).astype(np.float32)
        gain = np.sqrt(np.mean(wav**2) / np.mean(noise**2) / 10 ** (ratio_db / 10))
        mixed = wav + gain * noise
        return mixed / max(1.0, float(np.abs(mixed).max()))

    return degrade


def narrow(wav: np.ndarray, rate: int, seed: int) -> np.ndarray:
    """The recording through 8 kHz."""
    del seed
    return resample(resample(wav, rate, _NARROW), _NARROW, rate)


def mp3(wav: np.ndarray, rate: int, seed: int) -> np.ndarray:
    """The recording through mp3 of the lowest quality, at a variable bit rate."""
    del seed
    buffer = io.BytesIO()
    soundfile.write(buffer, wav, rate, format="MP3", compression_level=0.99)
    buffer.seek(0)
    return soundfile.read(buffer, dtype="float32")[0]


HOW: dict[str, Degrade] = {
    "clean": lambda wav, rate, seed: wav,
    "snr20": noisy(20.0),
    "snr10": noisy(10.0),
    "snr0": noisy(0.0),
    "8khz": narrow,
    "mp3": mp3,
}
