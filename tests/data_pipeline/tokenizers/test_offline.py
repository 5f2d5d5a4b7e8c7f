"""Properties of both offline tokenizers, their storage and their building blocks."""

import json

import numpy as np
import pytest

from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenizers import (
    AcousticCodec,
    SemanticTokenizer,
    load_codec,
    load_semantic,
    storage,
)
from data_pipeline.tokenizers.codecs import mel_rvq
from data_pipeline.tokenizers.codecs.vocoder import GriffinLim, invert_mel
from data_pipeline.tokenizers.semantic import features, kmeans, mfcc_kmeans

RATE = 16_000
SEMANTIC = mfcc_kmeans.MFCCKMeansConfig(vocab_size=20)
CODEC = mel_rvq.MelRVQConfig(num_codebooks=3, codebook_size=32)


def babble(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Something like speech: a buzz through formants that change five times a second, pauses."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    steps = np.minimum((time * 5).astype(int), int(seconds * 5))
    pitch = rng.uniform(90, 220)
    wav = np.zeros(len(time))
    formants = rng.uniform([300, 900], [800, 2500], (int(seconds * 5) + 1, 2))
    for harmonic in range(1, 20):
        frequency = harmonic * pitch
        gain = np.exp(-(((frequency - formants) / 200) ** 2)).sum(axis=1) + 0.01
        wav += gain[steps] * np.sin(2 * np.pi * frequency * time)
    wav *= (rng.uniform(size=len(formants)) > 0.2)[steps]
    return (0.1 * wav).astype(np.float32) + 1e-4 * rng.normal(size=len(wav)).astype(np.float32)


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    wavs = [0.5 ** (seed % 4) * babble(3.0, seed) for seed in range(12)]
    units = mfcc_kmeans.fit(
        SEMANTIC, [mfcc_kmeans.raw_features(SEMANTIC, wav) for wav in wavs], seed=0
    )
    frames = [mel_rvq.raw_features(CODEC, wav) for wav in wavs]
    storage.save_tokenizer(root / "semantic", "mfcc_kmeans", SEMANTIC, units)
    codes = mel_rvq.fit(CODEC, frames, seed=0)
    storage.save_tokenizer(root / "codec", "mel_rvq", CODEC, codes)
    return root


@pytest.fixture(scope="module")
def semantic(directories):
    return load_semantic(directories / "semantic")


@pytest.fixture(scope="module")
def codec(directories):
    return load_codec(directories / "codec")


def test_both_implement_their_protocols(semantic, codec):
    assert isinstance(semantic, SemanticTokenizer)
    assert isinstance(codec, AcousticCodec)
    assert (semantic.vocab_size, semantic.frame_rate, semantic.sample_rate) == (20, 50.0, RATE)
    assert (codec.num_codebooks, codec.codebook_size, codec.frame_rate) == (3, 32, 50.0)
    assert len(semantic.sha256) == len(codec.sha256) == 64


@pytest.mark.parametrize("samples", [1, 160, 319, 320, 321, 1600, 16_001])
def test_lengths_are_the_ceiling_of_samples_over_hop(semantic, codec, samples):
    wav = babble(2.0)[:samples]
    expected = -(-samples // 320)
    units, codes = semantic.encode(wav, RATE), codec.encode(wav, RATE)
    assert units.shape == (expected,)
    assert codes.shape == (3, expected)
    assert units.dtype == codes.dtype == np.uint16
    assert units.max() < 20
    assert codes.max() < 32
    decoded = codec.decode(codes)
    assert decoded.shape == (expected * 320,)
    assert decoded.dtype == np.float32
    assert np.isfinite(decoded).all()


def test_encoding_and_decoding_are_deterministic(semantic, codec):
    wav = babble(1.3, seed=3)
    assert np.array_equal(semantic.encode(wav, RATE), semantic.encode(wav.copy(), RATE))
    codes = codec.encode(wav, RATE)
    assert np.array_equal(codes, codec.encode(wav.copy(), RATE))
    assert np.array_equal(codec.decode(codes), codec.decode(codes.copy()))


@pytest.mark.parametrize("gain", [0.03, 0.5, 4.0])
def test_units_do_not_depend_on_loudness(semantic, gain):
    wav = babble(2.0, seed=5)
    units = semantic.encode(wav, RATE)
    assert len(set(units.tolist())) > 4
    assert np.mean(units == semantic.encode(gain * wav, RATE)) > 0.98


def test_codes_follow_loudness(codec):
    wav = babble(2.0, seed=5)
    quiet, loud = (codec.decode(codec.encode(gain * wav, RATE)) for gain in (0.1, 1.0))
    assert np.std(quiet) < 0.5 * np.std(loud)


def test_silence_of_a_tenth_of_a_second_has_tokens_of_its_own(semantic, codec):
    zeros = np.zeros(1600, np.float32)
    units, codes = semantic.encode(zeros, RATE), codec.encode(zeros, RATE)
    assert units.shape == (5,)
    assert codes.shape == (3, 5)
    assert len(set(units.tolist())) == 1
    assert np.abs(codec.decode(codes)).max() < 0.01
    # Pauses inside an utterance are the same unit as silence by itself.
    paused = np.concatenate([babble(1.0, seed=2), np.zeros(RATE // 2, np.float32)])
    assert semantic.encode(paused, RATE)[-10] == units[0]


def test_other_sample_rates_are_resampled(semantic, codec):
    slow = babble(1.0, rate=8_000)
    assert len(semantic.encode(slow, 8_000)) == 50
    assert codec.encode(slow, 8_000).shape == (3, 50)


def spectral_error(first: np.ndarray, second: np.ndarray) -> float:
    """Mean distance of log-mels in nepers, of frames well above the floor."""
    log_mels = [mel_rvq.raw_features(CODEC, wav) for wav in (first, second)]
    heard = log_mels[0] > np.log(CODEC.floor) + 4
    return float(np.abs(log_mels[0] - log_mels[1])[heard].mean())


def test_first_codebooks_are_a_codec_of_their_own_and_more_are_better(codec):
    wav = babble(3.0, seed=100)  # not among the fitted ones
    codes = codec.encode(wav, RATE)
    residuals = mel_rvq.raw_features(CODEC, wav) - codec._mean
    errors = [np.square(residuals - codec.embed(codes[:k])).mean() for k in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.5 * np.square(residuals).mean()
    parts = codec.embed(codes, 0, 1) + codec.embed(codes, 1, 3)
    assert parts == pytest.approx(codec.embed(codes), abs=1e-5)
    assert codec.decode(codes[:1]).shape == codec.decode(codes).shape


def test_a_signal_survives_the_codec(codec):
    wav = babble(3.0, seed=3)
    error = spectral_error(wav, codec.decode(codec.encode(wav, RATE)))
    assert error < 0.6 * spectral_error(wav, babble(3.0, seed=4))


def test_vectors_decode_like_the_codes_that_stand_for_them(codec):
    codes = codec.encode(babble(0.5), RATE)
    assert np.array_equal(codec.decode_vectors(codec.embed(codes)), codec.decode(codes))
    assert codec.codebooks.shape == (3, 32, 80)


@pytest.mark.parametrize(
    "codes",
    [np.zeros((4, 5), int), np.zeros((0, 5), int), np.full((3, 5), 32), np.full((1, 2), -1)],
)
def test_invalid_codes_are_refused(codec, codes):
    with pytest.raises(ValueError, match="codes must be"):
        codec.decode(codes)


def test_no_frames_decode_to_no_samples(codec):
    assert codec.decode(np.zeros((3, 0), np.uint16)).shape == (0,)


def test_changed_files_are_refused(directories, tmp_path):
    for name in ("config.json", "weights.safetensors"):
        (tmp_path / name).write_bytes((directories / "codec" / name).read_bytes())
    assert load_codec(tmp_path).sha256 == load_codec(directories / "codec").sha256

    config = json.loads((tmp_path / "config.json").read_text())
    config["config"]["floor"] *= 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="sha256"):
        load_codec(tmp_path)

    (tmp_path / "config.json").write_bytes((directories / "codec" / "config.json").read_bytes())
    data = bytearray((tmp_path / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "weights.safetensors").write_bytes(data)
    with pytest.raises(UserError, match="sha256"):
        load_codec(tmp_path)


def test_directories_that_are_no_tokenizer_of_the_role_are_refused(directories, tmp_path):
    with pytest.raises(UserError, match="not a tokenizer's directory"):
        load_semantic(tmp_path)
    with pytest.raises(UserError, match="semantic tokenizer that is needed"):
        load_semantic(directories / "codec")
    with pytest.raises(UserError, match="acoustic codec that is needed"):
        load_codec(directories / "semantic")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="configuration"):
        load_codec(tmp_path)


@pytest.mark.parametrize("rate", [25.0, 50.0, 100.0])
def test_frame_rates_are_parameters(rate):
    config = mel_rvq.MelRVQConfig(frame_rate=rate)
    assert len(mel_rvq.raw_features(config, babble(1.0))) == rate
    assert (
        len(mfcc_kmeans.raw_features(mfcc_kmeans.MFCCKMeansConfig(frame_rate=rate), babble(1)))
        == rate
    )


def test_invalid_configurations_are_refused():
    with pytest.raises(ValueError, match="frame_rate"):
        mel_rvq.MelRVQConfig(frame_rate=75.0)
    with pytest.raises(ValueError, match="codebook_size"):
        mel_rvq.MelRVQConfig(codebook_size=70_000)
    with pytest.raises(ValueError, match="vocab_size"):
        mfcc_kmeans.MFCCKMeansConfig(vocab_size=1)


def test_frames_are_centred_on_their_hops():
    wav = np.zeros(3200, np.float32)
    wav[5 * 320 + 160] = 1.0  # the middle of hop 5
    energy = features.magnitude_spectrogram(wav, 320, 960).sum(axis=1)
    assert np.argmax(energy) == 5
    assert energy[4] == pytest.approx(energy[6], rel=0.02)


@pytest.mark.parametrize(("n_fft", "mels"), [(400, 40), (960, 80), (512, 80)])
def test_every_mel_filter_has_unit_sum_and_its_peak_rises(n_fft, mels):
    filters = features.mel_filterbank(RATE, n_fft, mels, 0.0, RATE / 2)
    assert filters.shape == (mels, n_fft // 2 + 1)
    assert filters.sum(axis=1) == pytest.approx(np.ones(mels), rel=1e-5)
    centres = filters @ np.arange(n_fft // 2 + 1)
    assert (np.diff(centres) > 0).all()


def test_deltas_are_the_slope_of_a_line():
    line = np.arange(20, dtype=np.float32)[:, None] * np.array([[1.0, -3.0]], np.float32)
    assert features.deltas(line)[3:-3] == pytest.approx(np.tile([1.0, -3.0], (14, 1)))


def test_kmeans_finds_separate_clusters_and_is_deterministic():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(12, 5)) * 20
    points = (centres[rng.integers(0, 12, 3000)] + rng.normal(size=(3000, 5))).astype(np.float32)
    found = kmeans.fit_kmeans(points, 12, seed=1)
    distances = np.linalg.norm(found[:, None] - centres[None], axis=-1)
    assert np.sort(distances.argmin(axis=1)).tolist() == list(range(12))
    assert distances.min(axis=1).max() < 0.5
    assert np.array_equal(found, kmeans.fit_kmeans(points, 12, seed=1))
    exact = np.linalg.norm(points[:, None] - found[None], axis=-1).argmin(axis=1)
    assert np.mean(kmeans.nearest(points, found) == exact) > 0.999


def test_kmeans_copes_with_fewer_distinct_points_than_clusters():
    points = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)
    assert np.isfinite(kmeans.fit_kmeans(points, 8, seed=0)).all()
    with pytest.raises(ValueError, match="8 clusters"):
        kmeans.fit_kmeans(points[:5], 8, seed=0)


def test_griffin_lim_reaches_the_magnitudes_it_is_given():
    wav = babble(1.0, seed=7)
    target = features.magnitude_spectrogram(wav, 320, 960)
    scale = np.linalg.norm(target)

    def error(iterations: int) -> float:
        rebuilt = GriffinLim(320, 960, iterations)(target)
        assert len(rebuilt) == len(wav)
        found = features.magnitude_spectrogram(rebuilt, 320, 960)
        return float(np.linalg.norm(found - target) / scale)

    assert error(32) < 0.25
    assert error(32) < 0.5 * error(0)


def test_mel_inversion_is_non_negative_and_reproduces_the_mel_frames():
    filters = features.mel_filterbank(RATE, 960, 80, 0.0, RATE / 2)
    magnitudes = features.magnitude_spectrogram(babble(1.0), 320, 960)
    mel = magnitudes @ filters.T
    found = invert_mel(mel, filters)
    assert (found >= 0).all()
    assert np.linalg.norm(found @ filters.T - mel) < 0.05 * np.linalg.norm(mel)
