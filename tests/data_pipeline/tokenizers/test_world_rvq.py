"""The codec of WORLD parameters: its protocol, odd signals, prefixes, vectors and streaming."""

import json
import sys

import numpy as np
import pytest

from data_pipeline.audio.io import resample
from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenizers import AcousticCodec, load_codec, storage
from data_pipeline.tokenizers.codecs import residual, world_rvq, world_vocoder
from data_pipeline.tokenizers.codecs.world_rvq import WorldRVQ, WorldRVQConfig

pytest.importorskip("pyworld", reason="the codec's vocoder is not installed")

RATE = 16_000
HOP = 320
# Identity of the default codec's configuration when 50 Hz was the only rate.
BEFORE = "c567fbb812bf5f178819f38c1cd0af57bb0257bf3e9e119e492025fb4a091c88"
CONFIG = WorldRVQConfig(num_codebooks=3, codebook_size=32)


def voice(seconds: float, seed: int = 0, pitch: float | None = None) -> np.ndarray:
    """A buzz of gliding pitch through a formant that moves, with noise and pauses between."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = pitch or rng.uniform(100, 220)
    frequency = pitch * (1 + 0.1 * np.sin(2 * np.pi * 1.5 * time + seed))
    phase = 2 * np.pi * np.cumsum(frequency) / RATE
    formant = rng.uniform(500, 900) + 300 * np.sin(2 * np.pi * 2 * time + seed)
    wav = sum(
        (np.exp(-(((k * frequency - formant) / 250) ** 2)) + 0.02) * np.sin(k * phase)
        for k in range(1, 25)
    )
    segment = (time * 4).astype(int) % 4
    wav = np.where(segment == 3, 0.3 * rng.normal(size=len(time)), np.where(segment == 1, 0, wav))
    return (0.1 * wav + 1e-4 * rng.normal(size=len(time))).astype(np.float32)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("codec")
    frames = [world_rvq.raw_features(CONFIG, voice(2.0, seed)) for seed in range(8)]
    storage.save_tokenizer(
        path, "world_rvq", CONFIG, world_rvq.fit(CONFIG, frames, 0, iterations=6)
    )
    return path


@pytest.fixture(scope="module")
def codec(directory):
    return load_codec(directory)


def test_it_implements_the_protocol(codec):
    assert isinstance(codec, AcousticCodec)
    assert (codec.num_codebooks, codec.codebook_size, codec.frame_rate) == (3, 32, 50.0)
    assert codec.codebooks.shape == (3, 32, CONFIG.latent_size)
    assert codec.context_frames is None
    assert codec.id == "world_rvq-3x32-50hz"


@pytest.mark.parametrize("samples", [0, 1, 2, 319, 320, 321, 800, 16_001])
def test_lengths_are_the_ceiling_of_samples_over_hop(codec, samples):
    codes = codec.encode(voice(2.0)[:samples], RATE)
    frames = -(-samples // HOP)
    assert codes.shape == (3, frames)
    assert codes.dtype == np.uint16
    wav = codec.decode(codes)
    assert wav.shape == (frames * HOP,)
    assert wav.dtype == np.float32


@pytest.mark.parametrize(
    "wav",
    [
        np.zeros(RATE, np.float32),
        np.zeros(1, np.float32),
        np.ones(800, np.float32),
        np.sign(np.sin(0.05 * np.arange(RATE))).astype(np.float32),
        np.clip(50 * voice(1.0), -1, 1),
        np.eye(1, RATE, 5, dtype=np.float32)[0],
        np.random.default_rng(0).normal(size=RATE).astype(np.float32),
    ],
    ids=["silence", "one zero", "constant", "square", "clipped", "click", "noise"],
)
def test_odd_signals_give_finite_sound_and_parameters(codec, wav):
    assert np.isfinite(world_rvq.raw_features(CONFIG, wav)).all()
    decoded = codec.decode(codec.encode(wav, RATE))
    assert np.isfinite(decoded).all()
    assert np.abs(decoded).max() < 10


def test_silence_stays_quiet(codec):
    decoded = codec.decode(codec.encode(np.zeros(RATE, np.float32), RATE))
    assert np.std(decoded) < 0.05 * np.std(voice(1.0))


def test_every_call_gives_the_same_bits_whatever_came_before(codec):
    first, other = voice(1.0, seed=20), voice(1.3, seed=21)
    codes = codec.encode(first, RATE)
    wav = codec.decode(codes)
    codec.decode(codec.encode(other, RATE))
    assert np.array_equal(codec.encode(first.copy(), RATE), codes)
    assert np.array_equal(codec.decode(codes), wav)


def test_fitting_is_deterministic():
    frames = [world_rvq.raw_features(CONFIG, voice(1.0, seed)) for seed in range(3)]
    weights = [world_rvq.fit(CONFIG, frames, seed, iterations=2) for seed in (0, 0, 1)]
    for name, array in weights[0].items():
        assert array.dtype == np.float32
        assert np.array_equal(array, weights[1][name])
    assert not np.array_equal(weights[0]["codebooks"], weights[2]["codebooks"])


def test_pitch_and_voicing_are_found():
    wav = np.tile(np.eye(1, 100, dtype=np.float32)[0], 160)  # 160 Hz
    parameters = CONFIG.vocoder.analyse(wav, 200)
    inner = parameters[20:-20]
    assert inner[:, CONFIG.envelope_points + 1].mean() > 0.95
    pitch = np.exp(np.median(inner[:, CONFIG.envelope_points]))
    assert pitch == pytest.approx(160, rel=0.01)
    noise = np.random.default_rng(1).normal(size=RATE).astype(np.float32)
    assert CONFIG.vocoder.analyse(noise, 200)[:, CONFIG.envelope_points + 1].mean() < 0.3


def test_the_vocoder_returns_the_parameters_it_is_given():
    wav = voice(1.0, seed=3)
    first = CONFIG.vocoder.analyse(wav, 200)
    again = CONFIG.vocoder.analyse(CONFIG.vocoder.synthesise(first), 200)
    voiced = (first[:, 49] > 0.5) & (again[:, 49] > 0.5)
    assert voiced.mean() > 0.4
    assert np.abs(first - again)[voiced, 48].mean() < 0.02
    assert np.abs(first - again)[voiced, :48].mean() < 0.4  # nepers


def test_more_codebooks_are_nearer_and_partial_sums_add_up(codec):
    features = world_rvq.raw_features(CONFIG, voice(2.0, seed=30))
    latents = (features - codec._mean) @ codec._projection
    codes = codec.encode(voice(2.0, seed=30), RATE)
    errors = [np.square(latents - codec.embed(codes[:k])).mean() for k in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.3 * np.square(latents).mean()
    parts = codec.embed(codes, 0, 1) + codec.embed(codes, 1, 3)
    assert parts == pytest.approx(codec.embed(codes), abs=1e-4)


def test_each_number_of_codebooks_is_a_codec(codec):
    wav = voice(2.0, seed=31)
    codes = codec.encode(wav, RATE)
    original = world_rvq.raw_features(CONFIG, wav)[:, :48]
    for depth in (1, 2, 3):
        decoded = codec.decode(codes[:depth])
        found = world_rvq.raw_features(CONFIG, decoded)[:, :48]
        loud = original.mean(axis=1) > np.median(original)
        error = np.abs(found - original)[loud].mean()
        shuffled = np.abs(found - np.roll(original, 37, axis=0))[loud].mean()
        assert error < 0.8 * shuffled


def test_vectors_decode_like_the_codes_that_stand_for_them(codec):
    codes = codec.encode(voice(0.5), RATE)
    assert np.array_equal(codec.decode_vectors(codec.embed(codes)), codec.decode(codes))
    assert np.isfinite(codec.decode_vectors(100 * np.ones((20, CONFIG.latent_size)))).all()


def test_later_codes_do_not_change_earlier_samples(codec):
    codes = codec.encode(voice(3.0, seed=32), RATE)
    whole = codec.decode(codes)
    scale = np.abs(whole).max()
    for frames in (10, 37, 80, 149):
        prefix = codec.decode(codes[:, :frames])
        settled = (frames - codec.lookahead_frames) * HOP
        assert np.abs(prefix - whole[: frames * HOP])[:settled].max() < 1e-3 * scale
        assert len(prefix) == frames * HOP


def test_a_beam_finds_nearer_sums_than_greedy_search_and_each_frame_is_on_its_own():
    rng = np.random.default_rng(0)
    codebooks = rng.normal(size=(4, 16, 6)).astype(np.float32)
    latents = 2 * rng.normal(size=(700, 6)).astype(np.float32)

    def error(beam: int) -> float:
        codes = residual.beam_search(latents, codebooks, beam)
        return float(np.square(latents - residual.sum_of_vectors(codebooks, codes)).mean())

    assert error(1) > error(4) > error(32)
    exact = np.square(
        latents[:, None, None] - codebooks[0][None, :, None] - codebooks[1][None, None]
    ).sum(axis=-1)
    wide = residual.beam_search(latents, codebooks[:2], 256)
    assert np.array_equal(16 * wide[0] + wide[1], exact.reshape(700, -1).argmin(axis=1))
    assert np.array_equal(
        residual.beam_search(latents[600:], codebooks, 4),
        residual.beam_search(latents, codebooks, 4)[:, 600:],
    )


def test_enhancement_deepens_formants_at_equal_power():
    envelope = np.sin(np.arange(48) / 3.0)[None].astype(np.float32)
    parameters = np.concatenate([envelope, np.zeros((1, 7), np.float32)], axis=1)
    raised = CONFIG.vocoder.enhance(parameters, 1.5)
    assert np.std(raised[:, :48]) > 1.2 * np.std(envelope)
    powers = [np.exp(2 * array[:, :48]).sum() for array in (parameters, raised)]
    assert powers[0] == pytest.approx(powers[1], rel=1e-4)
    assert CONFIG.vocoder.enhance(parameters, 1.0) == pytest.approx(parameters, abs=1e-5)


def test_without_its_package_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyworld", None)
    with pytest.raises(UserError, match=r"pip install 'gpst_jax\[demo\]'"):
        world_vocoder.import_pyworld()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"frame_rate": 75.0, "sample_rate": 16_000}, "frame_rate"),
        ({"frame_rate": 86.13}, "frame_rate"),
        ({"frame_rate": 0.0}, "frame_rate"),
        ({"num_codebooks": 0}, "num_codebooks"),
        ({"codebook_size": 70_000}, "codebook_size"),
        ({"subframes": 3, "sample_rate": 16_000}, "subframes"),
        ({"latent_size": 1000}, "latent_size"),
        ({"beam": 0}, "beam"),
    ],
)
def test_invalid_configurations_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        WorldRVQConfig(**changes)


def test_sample_rate_and_subframes_follow_from_the_frame_rate():
    """Subframes of about 5 ms and whole numbers of samples."""
    found = {
        rate: (config.sample_rate, config.hop, config.subframes, config.lookahead_frames)
        for rate in (25.0, 50.0, 75.0, 100.0)
        for config in [WorldRVQConfig(frame_rate=rate)]
    }
    assert found == {
        25.0: (16_000, 640, 8, 3),
        50.0: (16_000, 320, 4, 4),
        75.0: (15_975, 213, 3, 5),
        100.0: (16_000, 160, 2, 6),
    }
    given = WorldRVQConfig(frame_rate=75.0, sample_rate=24_000)
    assert (given.hop, given.subframes) == (320, 2)  # of 6.7 ms; 3 do not divide 320
    import pyworld

    for rate in (8000, 15_975, 16_000, 24_000, 48_000):
        vocoder = world_vocoder.WorldVocoder(rate, 80, 48, 60.0, 500.0)
        assert vocoder.fft_size == pyworld.get_cheaptrick_fft_size(rate)


def test_a_codec_stored_before_rates_could_be_chosen_is_the_default_one(directory, codec):
    stored = json.loads((directory / storage.CONFIG_FILE).read_text())
    assert stored["config"] == {
        "sample_rate": 16_000, "frame_rate": 50.0, "num_codebooks": 3, "codebook_size": 32,
        "subframes": 4, "envelope_points": 48, "latent_size": 80, "pitch_floor": 60.0,
        "pitch_ceiling": 500.0, "pitch_weight": 14.0, "voicing_weight": 2.6,
        "aperiodicity_weight": 0.3, "beam": 4, "enhancement": 1.3,
    }  # fmt: skip
    assert storage.identity("world_rvq", CONFIG, {"a": np.zeros(1, np.float32)}) == BEFORE


@pytest.fixture(scope="module", params=[25.0, 75.0, 100.0])
def other_rate(request):
    """A codec of another frame rate, in memory."""
    config = WorldRVQConfig(frame_rate=request.param, num_codebooks=2, codebook_size=16)
    wavs = [resample(voice(1.5, seed), RATE, config.sample_rate) for seed in range(4)]
    frames = [world_rvq.raw_features(config, wav) for wav in wavs]
    return WorldRVQ(config, world_rvq.fit(config, frames, 0, iterations=3), "")


def test_other_rates_have_whole_frames_and_lengths(other_rate):
    rate, hop = other_rate.sample_rate, other_rate.config.hop
    assert hop * other_rate.frame_rate == rate
    for samples in (0, 1, hop, hop + 1, rate):
        codes = other_rate.encode(voice(2.0)[:samples], rate)
        assert codes.shape == (2, -(-samples // hop))
        assert other_rate.decode(codes).shape == (codes.shape[1] * hop,)
    one_second = other_rate.encode(voice(1.0), RATE)
    assert one_second.shape[1] == other_rate.frame_rate


def test_other_rates_keep_the_envelope(other_rate):
    wav = resample(voice(2.0, seed=31), RATE, other_rate.sample_rate)
    points = other_rate.config.envelope_points

    def envelopes(wav):
        features = world_rvq.raw_features(other_rate.config, wav)
        return features.reshape(-1, other_rate.config.vocoder.width)[:, :points]

    original = envelopes(wav)
    found = envelopes(other_rate.decode(other_rate.encode(wav, other_rate.sample_rate)))
    found = found[: len(original)]
    loud = original.mean(axis=1) > np.median(original)
    error = np.abs(found - original)[loud].mean()
    assert error < 0.8 * np.abs(found - np.roll(original, 37, axis=0))[loud].mean()


def test_other_rates_stream_up_to_their_lookahead(other_rate):
    codes = other_rate.encode(voice(3.0, seed=32), RATE)
    whole, hop = other_rate.decode(codes), other_rate.config.hop
    scale = np.abs(whole).max()
    for frames in (10, 37, 60, codes.shape[1] - 1):
        prefix = other_rate.decode(codes[:, :frames])
        settled = (frames - other_rate.lookahead_frames) * hop
        assert np.abs(prefix - whole[: frames * hop])[:settled].max() < 1e-3 * scale
