"""Coders of telephony to compare the codecs with: Opus and Codec 2, at their own bit rates.

`opus:KBPS` is Opus through libsndfile, at least 6 kbit/s. `codec2:MODE` is Codec 2 (8 kHz) through
its programs `c2enc` and `c2dec`, with one of its modes, such as 3200 bits per second.
"""

import io
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from data_pipeline.audio.io import resample
from data_pipeline.runtime.errors import UserError

_OPUS_LOWEST, _OPUS_HIGHEST = 6_000, 256_000  # bits per second, of libsndfile's quality 1 and 0
_OPUS_RATE = 16_000  # Hz
_CODEC2_RATE = 8_000  # Hz
_CODEC2_MODES = ("3200", "2400", "1600", "1400", "1300", "1200", "700C", "450")
_OGG_HEAD = 27  # bytes of a page before its table of segments
_OPUS_HEADERS = (b"OpusHead", b"OpusTags")


class Coded(NamedTuple):
    """A recording after coding.

    Attributes:
        wav: float32 (N,), about as long as the recording.
        sample_rate: in Hz.
        bits: that were sent.
    """

    wav: np.ndarray
    sample_rate: int
    bits: int


Coder = Callable[[np.ndarray, int], Coded]  # of a waveform (N,) and its rate


def coder(text: str) -> Coder:
    """The coder of a name such as `opus:6` or `codec2:3200`.

    Raises:
        UserError: there is none, or its programs are not installed.
    """
    kind, _, rate = text.partition(":")
    if kind == "opus" and rate.replace(".", "", 1).isdigit():
        target = 1000 * float(rate)
        if _OPUS_LOWEST <= target <= _OPUS_HIGHEST:
            return lambda wav, sample_rate: _opus(wav, sample_rate, target)
    if kind == "codec2" and rate in _CODEC2_MODES:
        missing = [name for name in ("c2enc", "c2dec") if shutil.which(name) is None]
        if missing:
            raise UserError(
                f"--coders={text}: {missing[0]} is not installed (apt-get install codec2)"
            )
        return lambda wav, sample_rate: _codec2(wav, sample_rate, rate)
    raise UserError(
        f"--coders: {text!r} is not opus:KBPS, from {_OPUS_LOWEST // 1000} to "
        f"{_OPUS_HIGHEST // 1000}, or codec2:MODE, with one of {', '.join(_CODEC2_MODES)}"
    )


def _opus(wav: np.ndarray, sample_rate: int, target: float) -> Coded:
    quality = 1 - (target - _OPUS_LOWEST) / (_OPUS_HIGHEST - _OPUS_LOWEST)
    wav = resample(wav, sample_rate, _OPUS_RATE)
    buffer = io.BytesIO()
    soundfile.write(
        buffer, wav, _OPUS_RATE, format="OGG", subtype="OPUS", compression_level=quality
    )
    buffer.seek(0)
    decoded, rate = soundfile.read(buffer, dtype="float32")
    return Coded(decoded, rate, 8 * _ogg_payload(buffer.getvalue()))


def _ogg_payload(data: bytes) -> int:
    """Bytes of the packets in an Ogg file of Opus, without pages and headers."""
    total, position = 0, 0
    while position < len(data):
        segments = data[position + _OGG_HEAD - 1]
        start = position + _OGG_HEAD + segments
        size = sum(data[position + _OGG_HEAD : start])
        if not data[start : start + size].startswith(_OPUS_HEADERS):
            total += size
        position = start + size
    return total


def _codec2(wav: np.ndarray, sample_rate: int, mode: str) -> Coded:
    wav = resample(wav, sample_rate, _CODEC2_RATE)
    samples = np.round(np.clip(wav, -1, 1) * 32_767).astype("<i2")
    with tempfile.TemporaryDirectory() as folder:
        raw, coded, decoded = (Path(folder, name) for name in ("in.raw", "coded", "out.raw"))
        raw.write_bytes(samples.tobytes())
        for program, source, target in (("c2enc", raw, coded), ("c2dec", coded, decoded)):
            command = [program, mode, str(source), str(target)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise UserError(f"{program} {mode} failed: {done.stderr.strip()[-300:]}")
        made = np.frombuffer(decoded.read_bytes(), "<i2").astype(np.float32) / 32_768
        return Coded(made, _CODEC2_RATE, 8 * coded.stat().st_size)
