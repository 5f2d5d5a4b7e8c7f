"""Recordings are degraded by as much as is said, and stay recordings of the same speech."""

import numpy as np
import pytest

from experiments.studies.degradations import HOW

RATE = 16_000


@pytest.fixture
def wav() -> np.ndarray:
    """Half a second with parts below and above 4 kHz."""
    time = np.arange(RATE // 2) / RATE
    tones = 0.2 * np.sin(2 * np.pi * 440 * time) + 0.1 * np.sin(2 * np.pi * 6000 * time)
    return tones.astype(np.float32)


def power(wav, low, high):
    spectrum = np.abs(np.fft.rfft(wav)) ** 2
    at = np.fft.rfftfreq(len(wav), 1 / RATE)
    return spectrum[(at >= low) & (at < high)].sum()


@pytest.mark.parametrize(("how", "ratio"), [("snr20", 20), ("snr10", 10), ("snr0", 0)])
def test_noise_has_the_power_that_is_said(wav, how, ratio):
    noisy = HOW[how](wav, RATE, 7)
    gain = np.dot(noisy, wav) / np.dot(wav, wav)  # scaled down where it would clip
    noise = noisy / gain - wav
    assert 10 * np.log10(np.mean(wav**2) / np.mean(noise**2)) == pytest.approx(ratio, abs=0.5)
    assert np.array_equal(noisy, HOW[how](wav, RATE, 7))
    assert not np.array_equal(noisy, HOW[how](wav, RATE, 8))
    assert np.abs(noisy).max() <= 1


def test_a_narrow_band_loses_what_is_above_it(wav):
    narrow = HOW["8khz"](wav, RATE, 0)
    assert len(narrow) == len(wav)
    assert power(narrow, 400, 500) == pytest.approx(power(wav, 400, 500), rel=0.05)
    assert power(narrow, 5000, 8000) < 1e-3 * power(wav, 5000, 8000)


def test_mp3_keeps_the_tone_and_nearly_the_length(wav):
    coded = HOW["mp3"](wav, RATE, 0)
    assert abs(len(coded) - len(wav)) < 0.1 * RATE
    assert power(coded, 400, 500) == pytest.approx(power(wav, 400, 500), rel=0.3)
    assert not np.array_equal(coded[: len(wav)], wav[: len(coded)])
    assert np.array_equal(HOW["clean"](wav, RATE, 0), wav)
