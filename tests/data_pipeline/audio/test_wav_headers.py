"""Sizes in WAV headers are believed only where the rest of the file agrees with them."""

import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.audio import wav_parts
from data_pipeline.audio.io import AudioError, decode_audio, load_audio
from data_pipeline.audio.parts import PartFile

RATE = 16_000
LIST = b"LIST" + struct.pack("<I", 26) + b"INFOISFT\x0e\x00\x00\x00Lavf58.29.100\0"
ID3 = b"id3 " + struct.pack("<I", 10) + b"ID3\x04\x00\x00\x00\x00\x00\x00"
BEXT = b"bext" + struct.pack("<I", 602) + bytes(602)
ODD = b"iXML" + struct.pack("<I", 5) + b"<a/>\n\0"
OWN = b"Zzz9" + struct.pack("<I", 4) + b"mine"
TRAILERS = [b"", LIST, ID3, BEXT, ODD, LIST + ID3, BEXT + ODD + LIST]


def speech(length: int, seed: int = 0) -> np.ndarray:
    return (0.2 * np.random.default_rng(seed).normal(size=length)).clip(-1, 1).astype("f4")


def encode(wav: np.ndarray, subtype: str = "PCM_16", kind: str = "WAV", **options) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wav, RATE, format=kind, subtype=subtype, **options)
    return file.getvalue()


def decode(data: bytes) -> np.ndarray:
    return decode_audio(data, "a file")[0]


def with_size(wav: bytes, size: int, order: str = "<") -> bytes:
    at = wav.index(b"data") + 4
    return wav[:at] + struct.pack(f"{order}I", size) + wav[at + 4 :]


def data_size(wav: bytes) -> int:
    return len(wav) - wav.index(b"data") - 8


@settings(max_examples=60)
@given(
    st.integers(600, 4000),
    st.integers(0, 2**32 - 1),
    st.sampled_from(TRAILERS),
    st.booleans(),
)
def test_whatever_size_a_header_gives_all_samples_are_read_or_none(length, size, trailer, joined):
    wav = encode(speech(length))
    expected = decode(wav)
    # Most sizes are larger than the file; an odd one ends within a sample.
    size = 2 * (size % length if joined else size // 2)
    data = with_size(wav, size) + trailer
    if joined:
        data += wav
        expected = np.tile(expected, 2)
    if size < 2 * length or size >= 0xFFFFFF00:
        assert np.array_equal(decode(data), expected)
    elif size > 2 * length + len(trailer) and not 0x7FFFF000 <= size <= 0x80000024:
        with pytest.raises(AudioError, match="truncated"):
            decode(data)


@pytest.mark.parametrize(
    "subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"]
)
@pytest.mark.parametrize("size", [0, 256, 0xFFFFFFFF, 0x7FFFF000, 0x80000000])
def test_any_encoding_is_read_whole_with_a_wrong_size(subtype, size):
    wav = encode(speech(4000), subtype)
    expected = decode(wav)
    assert np.array_equal(decode(with_size(wav, size)), expected)
    assert np.array_equal(decode(with_size(wav, size) + LIST), expected)
    assert np.array_equal(decode(with_size(wav, size) + wav), np.tile(expected, 2))


def test_a_wrong_size_is_logged(tmp_path, caplog):
    (tmp_path / "a.wav").write_bytes(with_size(encode(speech(4000)), 1000))
    with caplog.at_level("INFO"):
        assert len(load_audio(tmp_path / "a.wav", RATE)) == 4000
    assert "its header has a wrong length" in caplog.text


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM", "GSM610", "G721_32"])
def test_compressed_wav_with_a_wrong_size_loses_nothing(subtype):
    wav = encode(speech(20_000), subtype)
    expected = decode(wav)
    assert np.array_equal(decode(wav + wav), np.tile(expected, 2))
    for size in (0, data_size(wav) // 4 // 256 * 256, 0xFFFFFFFF):
        found = decode(with_size(wav, size))
        assert np.array_equal(found[: len(expected)], expected)
        assert len(found) < len(expected) + 1100  # up to the end of the last block


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("trailer", [*TRAILERS, OWN, OWN + LIST, b"\0", bytes(1000)], ids=len)
def test_a_right_size_is_believed_whatever_follows(tmp_path, channels, trailer):
    path = tmp_path / "a.wav"
    wav = speech(1001 * channels).reshape(1001, channels)
    path.write_bytes(encode(wav, "PCM_U8") + trailer)
    direct, _ = soundfile.read(path, dtype="float32", always_2d=True)
    assert np.array_equal(load_audio(path, RATE, 0.0), direct.mean(axis=1))
    assert len(direct) == 1001


@pytest.mark.parametrize(
    "trailer",
    [
        b"LIST" + struct.pack("<I", 90_000) + b"INFO",  # its own size is wrong
        LIST + b"\x01\x02garbage at the end",
        b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128),  # appended without a chunk
    ],
    ids=["size", "garbage", "id3"],
)
def test_damaged_metadata_is_not_taken_for_samples(trailer):
    wav = encode(speech(4000))
    assert np.array_equal(decode(wav + trailer), decode(wav))
    assert np.array_equal(decode(wav + trailer + wav), np.tile(decode(wav), 2))


def test_the_padding_byte_of_an_odd_size_may_be_missing():
    wav = encode(speech(1001), "PCM_U8")
    wav = wav[: wav.index(b"data") + 8 + 1001]
    for follows in (LIST, b"\0" + LIST, b""):
        assert np.array_equal(decode(wav + follows), decode(wav))
        assert np.array_equal(decode(wav + follows + wav), np.tile(decode(wav), 2))


def test_a_cut_file_is_refused_alone_and_before_another():
    wav = encode(speech(RATE))
    cut = wav[: len(wav) // 2]
    for data in (cut, cut + wav, wav + cut, cut + wav + LIST):
        with pytest.raises(AudioError, match="truncated"):
            decode(data)


def test_no_samples_are_still_called_no_samples(tmp_path):
    for trailer in (b"", LIST):
        (tmp_path / "a.wav").write_bytes(encode(np.zeros(0, np.float32)) + trailer)
        with pytest.raises(AudioError, match="holds no samples"):
            load_audio(tmp_path / "a.wav", RATE)


def test_a_second_data_chunk_is_read_too():
    wav = encode(speech(4000))
    more = wav[wav.index(b"data") :]
    assert np.array_equal(decode(wav + LIST + more), np.tile(decode(wav), 2))


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_rf64_and_big_endian_wav_with_wrong_sizes(subtype):
    rf64 = encode(speech(4000), subtype, "RF64")
    at = rf64.index(b"ds64") + 16
    for size in (0, 1000, 2**64 - 1):
        wrong = rf64[:at] + struct.pack("<Q", size) + rf64[at + 8 :]
        assert np.array_equal(decode(wrong), decode(rf64))
        assert np.array_equal(decode(wrong + rf64), np.tile(decode(rf64), 2))
    rifx = encode(speech(4000), subtype, endian="BIG")
    assert rifx[:4] == b"RIFX"
    for size in (0, 1000, 0xFFFFFFFF):
        assert np.array_equal(decode(with_size(rifx, size, ">")), decode(rifx))
    assert np.array_equal(decode(rifx + rifx), np.tile(decode(rifx), 2))


@pytest.mark.parametrize("trailer", [b"", LIST])
def test_a_size_modulo_4_gib_is_found(tmp_path, trailer):
    """A sparse file: 8 channels of 32 bits, of which only the last second is not silence."""
    path = tmp_path / "a.wav"
    wav = np.repeat(speech(RATE)[:, None], 8, axis=1)
    encoded = encode(wav, "FLOAT")
    header, samples = encoded[: -wav.nbytes], encoded[-wav.nbytes :]
    total = 2**32 + 640_000
    with path.open("wb") as file:
        file.write(with_size(header, total % 2**32))
        file.seek(len(header) + total - len(samples))
        file.write(samples + trailer)
    with path.open("rb") as file:
        (part,) = wav_parts.wav_parts(file, path.stat().st_size)
        with soundfile.SoundFile(PartFile(file, part)) as decoder:
            assert decoder.frames * 32 == total
            decoder.seek(-RATE, soundfile.SEEK_END)
            assert np.array_equal(decoder.read(dtype="float32"), wav)
