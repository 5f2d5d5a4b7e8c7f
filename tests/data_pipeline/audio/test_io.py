"""Every unusable recording is refused with its reason; usable ones arrive as mono at one rate."""

import numpy as np
import pytest
import soundfile

from data_pipeline.audio.io import AudioError, load_audio, resample, write_audio
from data_pipeline.runtime.errors import UserError

RATE = 16_000


def tone(seconds: float, rate: int = RATE, hertz: float = 440.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype("f4")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "WAV"])
@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_any_format_rate_and_channel_count_becomes_mono_at_the_target_rate(tmp_path, suffix, rate):
    path = tmp_path / f"a.{suffix}"
    left = tone(0.5, rate)
    soundfile.write(path, np.stack([left, np.zeros_like(left)], axis=1), rate)

    wav = load_audio(path, RATE)

    assert wav.dtype == np.float32
    assert wav.ndim == 1
    assert len(wav) == pytest.approx(0.5 * RATE, abs=0.01 * RATE)
    middle = wav[2000:6000]
    peak = np.argmax(np.abs(np.fft.rfft(middle * np.hanning(len(middle)))))
    assert peak * RATE / len(middle) == pytest.approx(440, abs=5)
    assert np.abs(middle).max() == pytest.approx(0.15, abs=0.01)  # the mean of the two channels


def test_what_is_written_is_read_back_and_loud_samples_are_clipped(tmp_path):
    wav = tone(0.2)
    wav[100] = 1.7
    write_audio(tmp_path / "new" / "a.flac", wav, RATE)
    expected = np.clip(wav, -1, 1)
    assert load_audio(tmp_path / "new" / "a.flac", RATE) == pytest.approx(expected, abs=1e-4)


def test_an_unwritable_path_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_audio(tmp_path / "file" / "a.wav", tone(0.2), RATE)


def write_bad(path, kind: str) -> None:
    rng = np.random.default_rng(0)
    match kind:
        case "empty":
            path.write_bytes(b"")
        case "noise":
            path.write_bytes(rng.integers(0, 256, 30_000, dtype=np.uint8).tobytes())
        case "short":
            soundfile.write(path, tone(0.05), RATE)
        case "silent":
            soundfile.write(path, np.zeros(RATE, np.float32), RATE)
        case "no samples":
            soundfile.write(path, np.zeros(0, np.float32), RATE)
        case "nan" | "inf":
            wav = tone(1.0)
            wav[500] = np.nan if kind == "nan" else np.inf
            soundfile.write(path, wav, RATE, subtype="FLOAT")
        case "truncated":
            soundfile.write(path, tone(2.0) + 0.05 * rng.normal(size=2 * RATE), RATE)
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        case "directory":
            path.mkdir()


@pytest.mark.parametrize(
    ("kind", "suffix", "reason"),
    [
        ("empty", "wav", "empty"),
        ("empty", "mp3", "empty"),
        ("noise", "wav", "cannot be decoded"),
        ("noise", "flac", "cannot be decoded"),
        ("noise", "ogg", "cannot be decoded"),
        ("noise", "mp3", "cannot be decoded"),
        ("short", "wav", r"0\.05 s is shorter than the minimum of 0\.1 s"),
        ("silent", "flac", "silent"),
        ("no samples", "wav", "no samples"),
        ("nan", "wav", "NaN"),
        ("inf", "wav", "infinite"),
        ("truncated", "flac", "truncated"),
        ("truncated", "wav", "truncated"),
        ("truncated", "mp3", "truncated"),
        ("directory", "wav", "."),
        ("missing", "wav", "cannot be read"),
    ],
)
def test_bad_recordings_are_refused_with_their_reason(tmp_path, kind, suffix, reason):
    path = tmp_path / f"bad.{suffix}"
    write_bad(path, kind)
    with pytest.raises(AudioError, match=reason) as error:
        load_audio(path, RATE)
    assert str(path) in str(error.value)
    assert str(path) not in error.value.reason
    assert "\n" not in error.value.reason


def test_a_wav_written_to_a_pipe_has_no_length_and_is_not_truncated(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(1.0), RATE)
    data = bytearray(path.read_bytes())
    start = data.index(b"data") + 4
    data[start : start + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert len(load_audio(path, RATE)) == RATE


def test_min_seconds_is_a_parameter(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(0.4), RATE)
    assert len(load_audio(tmp_path / "a.wav", RATE, min_seconds=0.4)) == 0.4 * RATE
    with pytest.raises(AudioError, match="shorter"):
        load_audio(tmp_path / "a.wav", RATE, min_seconds=1.0)


def test_resampling_keeps_duration_and_is_the_identity_at_equal_rates():
    wav = tone(1.0, 22_050)
    assert len(resample(wav, 22_050, RATE)) == RATE
    assert np.array_equal(resample(wav, RATE, RATE), wav)
