"""Coders of telephony keep the words' envelope, send the bits that they say, and are named."""

import shutil

import numpy as np
import pytest

from data_pipeline.runtime.errors import UserError
from experiments.studies import speech_coders

RATE = 16_000


def speech_like(seconds: float) -> np.ndarray:
    """A buzz of 120 Hz whose level rises and falls three times a second."""
    time = np.arange(round(seconds * RATE)) / RATE
    buzz = np.sign(np.sin(2 * np.pi * 120 * time)) * (0.55 + 0.45 * np.sin(2 * np.pi * 3 * time))
    return (0.3 * buzz).astype(np.float32)


def levels(wav: np.ndarray, rate: int) -> np.ndarray:
    hop = rate // 20
    return np.sqrt(np.mean(wav[: len(wav) // hop * hop].reshape(-1, hop) ** 2, axis=1))


@pytest.mark.parametrize(("name", "rate"), [("opus:6", 6000), ("codec2:3200", 3200)])
def test_a_coder_sends_its_bits_and_keeps_the_envelope(name, rate):
    if name.startswith("codec2") and shutil.which("c2enc") is None:
        pytest.skip("c2enc is not installed")
    wav = speech_like(4.0)
    coded = speech_coders.coder(name)(wav, RATE)
    assert coded.bits / 4.0 == pytest.approx(rate, rel=0.15)
    assert coded.wav.dtype == np.float32
    assert len(coded.wav) / coded.sample_rate == pytest.approx(4.0, abs=0.05)
    before, after = levels(wav, RATE), levels(coded.wav, coded.sample_rate)
    count = min(len(before), len(after))
    assert np.corrcoef(before[:count], after[:count])[0, 1] > 0.8


def test_more_bits_are_sent_where_more_are_allowed():
    wav = speech_like(2.0)
    bits = [speech_coders.coder(f"opus:{rate}")(wav, RATE).bits for rate in (6, 16, 32)]
    assert bits == sorted(bits)
    assert bits[-1] > 2 * bits[0]


@pytest.mark.parametrize("name", ["opus:5", "opus:", "opus:x", "codec2:9600", "speex:8", "opus"])
def test_another_name_is_refused(name):
    with pytest.raises(UserError, match=f"--coders: '{name}' is not opus:KBPS, from 6 to 256"):
        speech_coders.coder(name)


def test_a_missing_program_is_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"c2enc is not installed \(apt-get install codec2\)"):
        speech_coders.coder("codec2:3200")
