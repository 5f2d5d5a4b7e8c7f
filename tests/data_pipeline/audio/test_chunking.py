"""Chunking and trimming of recordings."""

import dataclasses

import numpy as np
import pytest

from data_pipeline.audio.chunking import chunk_bounds
from data_pipeline.audio.voice_activity import speech_bounds
from data_pipeline.tokens import TokenLayout

RATE = 16000
LAYOUT = TokenLayout(num_units=50, num_codebooks=2, codebook_size=32)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (29.0, [(0, 29)]),
        (30.0, [(0, 30)]),
        (30.9, [(0, 30)]),  # less than a second is dropped
        (31.0, [(0, 30), (1, 31)]),  # the last 30 s, which overlap
        (60.5, [(0, 30), (30, 60)]),
        (75.0, [(0, 30), (30, 60), (45, 75)]),
        (90.0, [(0, 30), (30, 60), (60, 90)]),
    ],
)
def test_the_rule_of_the_paper(seconds: float, expected: list[tuple[float, float]]) -> None:
    bounds = chunk_bounds(round(seconds * RATE), RATE, 30.0, LAYOUT, "paper")
    assert bounds == [(start * RATE, stop * RATE) for start, stop in expected]


@pytest.mark.parametrize("rule", ["even", "paper"])
def test_chunks_are_in_order_within_the_recording_and_short_enough(rule: str) -> None:
    for size in np.random.default_rng(0).integers(1, 200 * RATE, 200).tolist():
        bounds = np.array(chunk_bounds(size, RATE, 12.5, LAYOUT, rule))
        assert bounds[0, 0] == 0
        assert (np.diff(bounds, axis=1) > 0).all()
        assert (np.diff(bounds, axis=1) <= 12.5 * RATE).all()
        assert (bounds[1:, 0] <= bounds[:-1, 1]).all()  # no gap
        assert 0 <= size - bounds[-1, 1] < (RATE if rule == "paper" else 1)


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="even, paper"):
        chunk_bounds(RATE, RATE, 30.0, LAYOUT, "odd")


def _speech(seconds: float, seed: int = 0) -> np.ndarray:
    """A tone whose loudness varies by 20 dB, as syllables do."""
    time = np.arange(round(seconds * RATE)) / RATE
    loud = 0.05 + 0.45 * np.sin(2 * np.pi * 2 * time) ** 2
    return (loud * np.sin(2 * np.pi * 220 * time)).astype(np.float32)


@pytest.mark.parametrize("noise", [0.0, 1e-3, 5e-3])
def test_silence_around_speech_is_trimmed(noise: float) -> None:
    rng = np.random.default_rng(0)
    wav = np.concatenate([np.zeros(RATE), _speech(2.0), np.zeros(2 * RATE)]).astype(np.float32)
    wav += (noise * rng.standard_normal(len(wav))).astype(np.float32)
    wav[RATE // 2] = 0.9  # a click is no speech
    start, stop = speech_bounds(wav, RATE)
    assert 0.8 * RATE <= start <= RATE
    assert 3.0 * RATE <= stop <= 3.3 * RATE


@pytest.mark.parametrize("wav", [_speech(3.0), np.ones(RATE, np.float32), np.zeros(100)])
def test_what_has_no_silence_around_it_is_left_alone(wav: np.ndarray) -> None:
    start, stop = speech_bounds(wav, RATE)
    assert (start, stop) == (0, len(wav))


def test_loud_noise_is_not_trimmed_away() -> None:
    rng = np.random.default_rng(1)
    wav = np.concatenate([np.zeros(RATE), _speech(1.0), np.zeros(RATE)])
    wav += 0.1 * rng.standard_normal(len(wav))
    assert speech_bounds(wav.astype(np.float32), RATE) == (0, len(wav))


@pytest.mark.parametrize("rates", [(50.0, 75.0), (50.0, 12.5), (50.0, 86.1328125)])
@pytest.mark.parametrize("sample_rate", [16000, 24000, 44100])
def test_chunks_cover_a_recording_and_are_short_enough(rates, sample_rate: int) -> None:
    layout = dataclasses.replace(LAYOUT, unit_rate=rates[0], frame_rate=rates[1])
    random = np.random.default_rng(0)
    sizes = [1, 10 * sample_rate, 10 * sample_rate + 1, 36000 * sample_rate]
    for size in [*sizes, *random.integers(1, 200 * sample_rate, 50).tolist()]:
        chunks = np.array(list(chunk_bounds(size, sample_rate, 10.0, layout)))
        assert chunks[0, 0] == 0
        assert chunks[-1, 1] == size
        np.testing.assert_array_equal(chunks[1:, 0], chunks[:-1, 1])
        lengths = np.diff(chunks, axis=1)
        assert lengths.max() <= 10 * sample_rate
        if len(chunks) > 1:
            assert lengths.min() > 3 * sample_rate
        if rates == (50.0, 75.0) and sample_rate == 16000:
            assert (chunks[:, 0] % 640 == 0).all()
