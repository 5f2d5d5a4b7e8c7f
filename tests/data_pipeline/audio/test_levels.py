"""Levels that no recording has are refused; channels that cancel each other are not averaged."""

import logging

import numpy as np
import pytest
import soundfile

from data_pipeline.audio.io import (
    AUDIO_SUFFIXES,
    UNREADABLE_AUDIO_SUFFIXES,
    AudioError,
    check_and_resample,
    load_audio,
)

RATE = 16_000


def speech(length: int = RATE, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.2 * np.convolve(rng.normal(size=length), np.ones(8) / 4, "same")).astype("f4")


def write(path, wav: np.ndarray, subtype: str = "FLOAT"):
    soundfile.write(path, wav, RATE, subtype=subtype)
    return path


@pytest.mark.parametrize("peak", [17.0, 32768.0, -32768.0, 8388608.0, 2.0**31, 1e29, -1e38])
@pytest.mark.parametrize("channels", [1, 2])
def test_one_sample_beyond_any_plausible_level_is_refused(tmp_path, peak, channels):
    wav = np.repeat(speech()[:, None], channels, axis=1)
    wav[500, 0] = peak * channels
    with pytest.raises(AudioError, match=r"has a peak of .* times full scale, above") as error:
        load_audio(write(tmp_path / "a.wav", wav), RATE)
    assert "divided by" in error.value.reason


@pytest.mark.parametrize("scale", [32768, 2**23, 2**31])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_floats_at_the_scale_of_integers_are_refused(tmp_path, scale, subtype):
    wav = np.round(speech().clip(-1, 1) * scale)
    with pytest.raises(AudioError, match="scale of integers"):
        load_audio(write(tmp_path / "a.wav", wav, subtype), RATE)
    with pytest.raises(AudioError, match="scale of integers"):
        check_and_resample(wav.astype("f4"), RATE, RATE, 0.1, "a row")


@pytest.mark.parametrize("peak", [1.0, 1.4, 4.0, 16.0])
def test_float_recordings_above_full_scale_are_read_as_they_are(tmp_path, peak):
    wav = speech()
    wav *= peak / np.abs(wav).max()
    assert np.array_equal(load_audio(write(tmp_path / "a.wav", wav), RATE), wav)


@pytest.mark.parametrize("scale", [1e-29, 1e-40, 5e-5])
def test_levels_next_to_nothing_are_silent(tmp_path, scale):
    wav = speech()
    wav = (wav / np.abs(wav).max() * scale).astype("f4")
    with pytest.raises(AudioError, match="is silent"):
        load_audio(write(tmp_path / "a.wav", wav), RATE)


@pytest.mark.parametrize("scale", [-1.0, -0.5, -0.9, -1.7])
@pytest.mark.parametrize("noise", [0.0, 0.01])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
@pytest.mark.parametrize("length", [RATE, 80 * RATE])  # one block, and several
def test_of_channels_of_opposite_polarity_one_is_used(
    tmp_path, caplog, scale, noise, subtype, length
):
    left = speech(length).clip(-0.5, 0.5)
    right = scale * left + noise * speech(length, seed=1)
    path = write(tmp_path / "a.wav", np.stack([left, right], axis=1), subtype)
    with caplog.at_level(logging.WARNING):
        wav = load_audio(path, RATE)
    nearest = min((left, right), key=lambda channel: np.abs(wav - channel).max())
    assert np.abs(wav - nearest).max() < 1e-4
    if scale in (-0.5, -1.7):
        assert nearest is (left if scale == -0.5 else right)  # the louder one
    assert f"{path}: its channels have opposite polarity" in caplog.text


def test_many_channels_that_sum_to_nothing_are_not_silent(tmp_path, caplog):
    wav = speech()
    path = write(tmp_path / "a.wav", np.stack([wav, -wav, 0.5 * wav, -0.5 * wav], axis=1))
    assert load_audio(path, RATE) == pytest.approx(wav, abs=1e-6)
    assert "channel 1 alone is used" in caplog.text


def stereo(kind: str) -> np.ndarray:
    left, other = speech(), speech(seed=1)
    right = {
        "equal": left,
        "scaled": 0.3 * left,
        "independent": other,
        "silent": np.zeros_like(left),
        "opposed": other - 0.8 * left,
        "late": np.roll(left, 40),
        "bleeding": -0.05 * left,
        "offsets": left - 0.5,
        "half": np.where(np.arange(RATE) < RATE // 2, left, -left),
    }[kind]
    left = left + 0.4 if kind == "offsets" else left
    return np.stack([left, right], axis=1).astype("f4")


@pytest.mark.parametrize(
    "kind",
    ["equal", "scaled", "independent", "silent", "opposed", "late", "bleeding", "offsets", "half"],
)
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_other_stereo_recordings_are_the_mean_to_the_bit(tmp_path, caplog, kind, suffix):
    subtype = "FLOAT" if suffix == "wav" else "PCM_16"
    path = write(tmp_path / f"a.{suffix}", stereo(kind).clip(-1, 1), subtype)
    expected = soundfile.read(path, dtype="float32")[0].mean(axis=1)
    assert np.array_equal(load_audio(path, RATE), expected)
    assert not caplog.text


@pytest.mark.parametrize("suffix", [s for s in AUDIO_SUFFIXES if s != ".mp2"])
def test_every_suffix_that_is_read_is_one_of_a_format_that_is_read(tmp_path, suffix):
    kinds = {
        ".wave": "WAV", ".bwf": "WAV", ".oga": "OGG", ".opus": "OGG", ".mpga": "MP3",
        ".aif": "AIFF", ".aifc": "AIFF", ".snd": "AU", ".sph": "NIST", ".8svx": "SVX",
    }  # fmt: skip
    kind = kinds.get(suffix, suffix[1:].upper())
    path = tmp_path / f"a{suffix}"
    subtype = "OPUS" if suffix == ".opus" else None
    soundfile.write(path, speech().clip(-0.9, 0.9), RATE, format=kind, subtype=subtype)
    assert len(load_audio(path, RATE)) == pytest.approx(RATE, abs=2400)


def test_suffixes_of_other_audio_have_a_remedy():
    assert not set(AUDIO_SUFFIXES) & set(UNREADABLE_AUDIO_SUFFIXES)
    for suffix in (".m4a", ".aac", ".wma", ".amr", ".mp4", ".mkv", ".webm", ".mov", ".avi", ".3gp"):
        assert f"ffmpeg -i NAME{suffix} NAME.flac" in UNREADABLE_AUDIO_SUFFIXES[suffix]
    for suffix in (*AUDIO_SUFFIXES, *UNREADABLE_AUDIO_SUFFIXES):
        assert suffix == suffix.lower()
        assert suffix.startswith(".")
