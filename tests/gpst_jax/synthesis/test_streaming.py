"""Audio of growing frames: the samples of the whole where the decoder looks ahead a few frames."""

import numpy as np
import pytest

from data_pipeline.tokenizers.codecs import CODECS, FITTED
from data_pipeline.tokenizers.codecs.vocoder import GriffinLim
from gpst_jax.synthesis.streaming import AudioStream, audio_stream, samples_of

HOP = 20


def smooth(codes: np.ndarray) -> np.ndarray:
    """A decoder that looks two frames ahead: each sample averages a few frames."""
    frames = np.repeat(codes[0].astype(np.float32), HOP)
    padded = np.pad(frames, (2 * HOP, 2 * HOP))
    return np.convolve(padded, np.ones(4 * HOP + 1, np.float32) / 81, "valid")


def chunks(codes: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    return np.split(codes, np.cumsum(sizes)[:-1], axis=1)


@pytest.mark.parametrize("sizes", [[40], [1] * 40, [3, 30, 7], [2, 38]])
def test_samples_are_those_of_the_whole(sizes):
    codes = np.random.default_rng(0).integers(0, 50, (1, 40))
    stream = AudioStream(smooth, axis=1, hop=HOP, lookahead=3, fade=8)
    made = np.concatenate(list(samples_of(iter(chunks(codes, sizes)), stream)))
    whole = smooth(codes)
    error = np.sqrt(np.mean((made - whole) ** 2) / np.mean(whole**2))
    assert made.shape == whole.shape
    assert 20 * np.log10(error + 1e-12) < -60


def test_samples_come_as_early_as_they_can():
    codes = np.random.default_rng(0).integers(0, 50, (1, 40))
    stream = AudioStream(smooth, axis=1, hop=HOP, lookahead=3, fade=8)
    assert [len(stream.add(part)) for part in chunks(codes, [2, 10, 28])] == [0, 9 * HOP, 28 * HOP]
    assert len(stream.end()) == 3 * HOP


def test_seams_of_a_decoder_without_bound_have_no_steps():
    """Each decoding has another phase: without a fade there would be a step at every seam."""

    def decode(codes):
        count = codes.shape[1]
        return np.full(count * HOP, 0.1 * (count % 7), np.float32)

    stream = AudioStream(decode, axis=1, hop=HOP, lookahead=2, fade=16)
    codes = np.zeros((1, 40), int)
    made = np.concatenate(list(samples_of(iter(chunks(codes, [10, 11, 19])), stream)))
    assert len(made) == 40 * HOP
    assert np.abs(np.diff(made)).max() < 0.06


def test_a_context_bounds_the_work():
    """Frames before it are not decoded again, and the samples are the same where it is enough."""
    codes = np.random.default_rng(0).integers(0, 50, (1, 200))
    sizes: list[int] = []

    def decode(part):
        sizes.append(part.shape[1])
        return smooth(part)

    stream = AudioStream(decode, axis=1, hop=HOP, lookahead=3, fade=8, context=6)
    made = np.concatenate(list(samples_of(iter(chunks(codes, [10] * 20)), stream)))
    np.testing.assert_allclose(made, smooth(codes), atol=1e-4)
    assert max(sizes) <= 10 + 3 + 6


def test_no_frames_are_no_samples():
    stream = AudioStream(smooth, axis=1, hop=HOP, lookahead=3, fade=8)
    assert list(samples_of(iter(()), stream)) == []


def tone(seconds: float) -> np.ndarray:
    """A tone that glides, with pauses."""
    time = np.arange(round(seconds * 16_000)) / 16_000
    phase = 2 * np.pi * np.cumsum(150 + 20 * np.sin(4 * time)) / 16_000
    wav = sum(np.sin(k * phase) / k for k in range(1, 20)) * (np.sin(8 * time) > -0.5)
    return (0.1 * wav + 1e-3 * np.random.default_rng(0).normal(size=len(time))).astype(np.float32)


@pytest.mark.parametrize(("kind", "chunk"), [("world_rvq", 5), ("world_rvq", 25), ("mel_rvq", 25)])
def test_the_offline_codecs_stream_what_they_decode_at_once(kind, chunk):
    """Within -60 dB; the first samples come before the last frames."""
    if kind == "world_rvq":
        pytest.importorskip("pyworld", reason="the codec's vocoder is not installed")
    fitted, wav = FITTED[kind], tone(4.0)
    config = fitted.config(num_codebooks=2, codebook_size=16)
    weights = fitted.fit(config, [fitted.raw_features(config, wav)], 0, iterations=2)
    codec = CODECS[kind](config, weights, "")
    codes = codec.encode(wav, 16_000)
    stream = audio_stream(codec, continuous=False)
    parts = np.split(codes, np.arange(chunk, codes.shape[1], chunk), axis=1)
    chunks = list(samples_of(iter(parts), stream))
    made, whole = np.concatenate(chunks), codec.decode(codes)
    assert len(chunks) > 3
    assert made.shape == whole.shape
    error = np.mean((made - whole) ** 2) / np.mean(whole**2)
    assert 10 * np.log10(error + 1e-20) < -60


def test_a_beginning_of_phases_is_that_of_the_whole_but_for_its_end():
    """The next frame differs, which shows that the bound is tight."""
    vocoder = GriffinLim(hop=20, window=60, iterations=3)
    magnitudes = np.random.default_rng(0).uniform(0.5, 1, (60, 31)).astype(np.float32)
    whole, part = vocoder(magnitudes), vocoder(magnitudes[:40])
    last = (40 - vocoder.lookahead) * 20
    np.testing.assert_allclose(part[:last], whole[:last], atol=1e-6)
    assert np.abs(part[last : last + 20] - whole[last : last + 20]).max() > 1e-5
