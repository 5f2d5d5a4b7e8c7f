"""Recordings joined in a file are read whole: chained streams, several files, wrong lengths."""

import io
import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.audio.io import AudioError, decode_audio, load_audio

RATE = 16_000
LOSSLESS = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("AIFF", "PCM_16")]
OTHERS = [("AU", "PCM_16"), ("CAF", "PCM_16"), ("W64", "PCM_16"), ("RF64", "PCM_16")]
LOSSY = [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]
PADDING = 2 * 1152 + 600  # samples that an mp3 encoder may add before and behind a signal


CASES = Path(__file__).resolve().parents[4] / "shared" / "cases" / "audio"


def tone(seconds: float, rate: int = RATE, hertz: float = 440.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype("f4")


def speech(length: int, seed: int = 0) -> np.ndarray:
    """Noise of changing loudness, (N,): an encoder of variable bit rate varies it."""
    loudness = 0.02 + 0.2 * np.abs(np.sin(np.arange(length) / 9000 + seed))
    return (loudness * np.random.default_rng(seed).normal(size=length)).clip(-1, 1).astype("f4")


def encode(wav: np.ndarray, kind: str, subtype: str, rate: int = RATE, **options) -> bytes:
    file = io.BytesIO()
    channels = 1 if wav.ndim == 1 else wav.shape[1]
    with soundfile.SoundFile(file, "w", rate, channels, subtype, format=kind, **options) as out:
        out.write(wav)
    return file.getvalue()


def decode(data: bytes) -> np.ndarray:
    return decode_audio(data, "a file")[0]


def id3(size: int = 300) -> bytes:
    packed = bytes((0, size >> 14, size >> 7 & 127, size & 127))
    return b"ID3\x04\x00\x00" + packed + b"TIT2".ljust(size, b"\0")


@settings(max_examples=25)
@given(
    st.sampled_from(LOSSLESS + OTHERS),
    st.lists(st.integers(1, 9000), min_size=1, max_size=5),
    st.integers(1, 2),
)
def test_any_split_of_a_signal_into_joined_lossless_files_reads_back_whole(kind, lengths, channels):
    wav = speech(sum(lengths))
    pieces = np.split(wav, np.cumsum(lengths)[:-1])
    wide = [np.repeat(piece[:, None], channels, axis=1) for piece in pieces]
    once = decode(encode(np.repeat(wav[:, None], channels, axis=1), *kind))
    assert np.array_equal(decode(b"".join(encode(piece, *kind) for piece in wide)), once)


@settings(max_examples=25)
@given(st.sampled_from(LOSSY), st.lists(st.integers(2400, 30_000), min_size=1, max_size=4))
def test_any_split_of_a_signal_into_joined_lossy_files_reads_back_whole(kind, lengths):
    pieces = np.split(speech(sum(lengths)), np.cumsum(lengths)[:-1])
    files = [encode(piece, *kind) for piece in pieces]
    joined = decode(b"".join(files))
    assert np.array_equal(joined, np.concatenate([decode(file) for file in files]))
    assert len(joined) == pytest.approx(sum(lengths), abs=PADDING * len(files))


@pytest.mark.parametrize("kind", [*LOSSLESS, *OTHERS, *LOSSY])
def test_parts_of_different_rates_and_channel_counts_are_resampled_and_joined(tmp_path, kind):
    narrow = encode(tone(1.0, 8000), *kind, rate=8000)
    wide = encode(np.stack([tone(2.0, 24_000)] * 2, axis=1), *kind, rate=24_000)
    (tmp_path / "a").write_bytes(narrow + wide)
    wav = load_audio(tmp_path / "a", RATE)
    assert len(wav) == pytest.approx(3 * RATE, abs=0.2 * RATE)
    spectrum = np.abs(np.fft.rfft(wav[-RATE:] * np.hanning(RATE)))
    assert np.argmax(spectrum) == pytest.approx(440, abs=2)
    assert decode_audio(narrow + wide, "")[1] == 24_000


def test_what_is_joined_is_logged(tmp_path, caplog):
    (tmp_path / "a.flac").write_bytes(encode(tone(1), "FLAC", "PCM_16") * 3)
    with caplog.at_level(logging.INFO):
        assert len(load_audio(tmp_path / "a.flac", RATE)) == 3 * RATE
    assert "3 streams are joined in it" in caplog.text
    caplog.clear()
    (tmp_path / "b.flac").write_bytes(encode(tone(1), "FLAC", "PCM_16"))
    load_audio(tmp_path / "b.flac", RATE)
    assert not caplog.text


def without_length(mp3: bytes) -> bytes:
    """An mp3 without its first frame, which states the length."""
    frames = [at for at in range(len(mp3)) if mp3[at : at + 2] == mp3[:2]]
    return mp3[frames[1] :]


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize(
    "between", [b"", id3(), b"TAG".ljust(128, b" "), id3(20_000), bytes(417)], ids=len
)
@pytest.mark.parametrize("stated", ["each", "first", "none"])
def test_joined_mp3_with_tags_and_length_headers(mode, between, stated):
    options = {"bitrate_mode": mode, "compression_level": 0.5}
    files = [
        encode(speech(RATE * n, seed=n), "MP3", "MPEG_LAYER_III", **options) for n in (1, 3, 2)
    ]
    if stated != "each":
        files[1:] = [without_length(file) for file in files[1:]]
    if stated == "none":
        files[0] = without_length(files[0])
    wav = decode(id3() + between.join(files) + b"TAG".ljust(128, b"\0"))
    assert len(wav) == pytest.approx(6 * RATE, abs=3 * PADDING)
    # No part is left out: the last is there as it is alone.
    alone = decode(files[2])[2000:-3000]
    where = np.argmax(np.correlate(wav[-40_000:], alone[:8000], "valid"))
    found = wav[-40_000:][where : where + 8000]
    assert np.corrcoef(found, alone[:8000])[0, 1] > 0.99


def test_an_mp3_whose_length_is_estimated_from_its_first_frames_is_read_whole():
    wav = np.concatenate([speech(RATE * 4), np.zeros(RATE * 4, np.float32), speech(RATE * 4)])
    options = {"bitrate_mode": "VARIABLE", "compression_level": 0.1}
    mp3 = without_length(encode(wav, "MP3", "MPEG_LAYER_III", **options))
    assert len(decode(mp3)) == pytest.approx(len(wav), abs=PADDING)


def test_an_mp3_that_goes_on_behind_a_cut_one_is_refused_or_whole():
    mp3 = encode(speech(3 * RATE), "MP3", "MPEG_LAYER_III")
    with pytest.raises(AudioError, match=r"stream 1 of the 2 .* truncated"):
        decode(mp3[: len(mp3) // 2] + mp3)
    assert np.array_equal(decode(mp3 + b"\xff\xfb" + bytes(range(90)))[:1000], decode(mp3)[:1000])


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_with_lost_corrupt_or_incomplete_pages_is_refused(subtype):
    ogg = encode(speech(8 * RATE), "OGG", subtype)
    pages = [at for at in range(len(ogg)) if ogg[at : at + 4] == b"OggS"]
    assert len(pages) > 4
    with pytest.raises(AudioError, match="missing"):
        decode(ogg[: pages[3]] + ogg[pages[4] :])
    with pytest.raises(AudioError, match="checksum"):
        decode(ogg[: pages[3] + 100] + b"\x55\x55" + ogg[pages[3] + 102 :])
    with pytest.raises(AudioError, match="truncated"):
        decode(ogg[: pages[-1] + 50])
    with pytest.raises(AudioError, match=r"checksum|missing"):
        decode(ogg[: pages[3] + 100] + ogg)
    assert len(decode(ogg + id3() + ogg + bytes(100))) == 2 * len(decode(ogg))


def flac_with_total(flac: bytes, total: int) -> bytes:
    high = bytes((flac[21] & 0xF0 | total >> 32,))
    return flac[:21] + high + (total & 0xFFFFFFFF).to_bytes(4, "big") + flac[26:]


@pytest.mark.parametrize("total", [0, 4000, 40_000])
@pytest.mark.parametrize("length", [1, 5000, 40_001])
def test_a_flac_whose_header_lacks_or_understates_its_length_is_read_whole(total, length):
    flac = encode(speech(length), "FLAC", "PCM_16")
    expected = decode(flac)
    if total < length:
        wrong = flac_with_total(flac, total)
        assert np.array_equal(decode(wrong), expected)
        assert np.array_equal(decode(wrong + b"TAG".ljust(128, b" ")), expected)
        assert np.array_equal(decode(wrong + id3() + wrong), np.tile(expected, 2))


def test_a_cut_flac_without_a_length_ends_at_its_last_block_or_is_refused():
    flac = flac_with_total(encode(speech(40_000), "FLAC", "PCM_16"), 0)
    with pytest.raises(AudioError, match="truncated"):
        decode(flac[: len(flac) * 2 // 3])
    with pytest.raises(AudioError, match="stream 1 of the 2 that are joined in it: truncated"):
        decode(flac[: len(flac) * 2 // 3] + flac)


def test_an_au_file_that_understates_its_length_is_read_whole():
    au = encode(speech(RATE), "AU", "PCM_16")
    for size in (0, 1000):
        wrong = au[:8] + size.to_bytes(4, "big") + au[12:]
        assert np.array_equal(decode(wrong), decode(au))
        assert np.array_equal(decode(wrong + wrong), np.tile(decode(au), 2))


@pytest.mark.parametrize("suffix", ["au", "snd", "wav", "vox", "gsm"])
def test_noise_is_never_taken_for_audio_by_its_suffix(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(np.random.default_rng(0).bytes(50_000))
    with pytest.raises(AudioError, match="cannot be decoded"):
        load_audio(path, RATE)


@pytest.mark.parametrize("kind", ["AIFF", "CAF", "W64"])
def test_other_files_that_understate_their_length_are_refused(kind):
    data = encode(speech(RATE), kind, "PCM_16")
    at = {"AIFF": data.find(b"SSND") + 4, "CAF": data.find(b"data") + 4}.get(
        kind, data.find(b"data") + 16
    )
    width = 4 if kind == "AIFF" else 8
    order = "little" if kind == "W64" else "big"
    small = data[:at] + (8000).to_bytes(width, order) + data[at + width :]
    for wrong in (small, data + small):
        with pytest.raises(AudioError, match="fewer samples than it holds"):
            decode(wrong)
    if kind != "W64":  # its decoder reads up to the end of the file
        assert np.array_equal(decode(data + bytes(640)), decode(data))


@pytest.mark.parametrize("kind", [*LOSSLESS, *LOSSY])
def test_a_tag_before_any_kind_of_file_is_passed_over(kind):
    data = encode(speech(RATE), *kind)
    assert np.array_equal(decode(id3() + data), decode(data))
    assert len(decode(id3() + id3(700) + data)) == len(decode(data))


def test_a_file_of_another_kind_behind_a_wav_is_never_read_as_its_samples():
    wav = encode(speech(RATE), "WAV", "PCM_16")
    for kind in (("FLAC", "PCM_16"), ("OGG", "OPUS"), ("AIFF", "PCM_16")):
        with pytest.raises(AudioError, match="followed by a file of another format"):
            decode(wav + encode(speech(RATE), *kind))


@pytest.mark.parametrize(
    ("head", "name"), [(b"\0\0\0\x20ftypM4A ", "m4a"), (b"#!AMR\n", "AMR"), (b"\xff\xf1P", "AAC")]
)
def test_other_audio_under_a_wrong_suffix_is_named(tmp_path, head, name):
    (tmp_path / "a.wav").write_bytes(head + bytes(3000))
    with pytest.raises(AudioError, match=f"it is .*{name}.*convert it"):
        load_audio(tmp_path / "a.wav", RATE)


@pytest.mark.skipif(not CASES.is_dir(), reason="the collected cases are not here")
@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("chained_3s.ogg", 3),
        ("joined_3s.mp3", 3),
        ("header_says_quarter_1s.wav", 1),
        ("stereo_antiphase.wav", 1),
        ("good.wav", 1),
        ("good.aiff", 1),
        ("good.opus", 1),
    ],
)
def test_collected_cases_are_read_whole(name, seconds):
    assert len(load_audio(CASES / name, RATE)) == pytest.approx(seconds * RATE, abs=PADDING)
