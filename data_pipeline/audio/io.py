"""Audio files: decoding with strict checks, downmixing, resampling, writing.

libsndfile decodes; soxr resamples. Every unusable recording raises one exception type, with a
reason that goes into a failure manifest.
"""

import io
import logging
import os
import re
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import soundfile
import soxr

from data_pipeline.audio.channels import Channels
from data_pipeline.audio.containers import find_parts
from data_pipeline.audio.decoder_messages import decoder_messages_hidden
from data_pipeline.audio.errors import AudioError as AudioError
from data_pipeline.audio.formats import AUDIO_SUFFIXES as AUDIO_SUFFIXES
from data_pipeline.audio.formats import UNREADABLE_AUDIO_SUFFIXES as UNREADABLE_AUDIO_SUFFIXES
from data_pipeline.audio.formats import what_it_is
from data_pipeline.audio.parts import PartFile
from data_pipeline.runtime.errors import UserError

SILENCE_PEAK = 1e-4  # -80 dB of full scale: about three steps of a 16-bit recording
# +24 dB of full scale. Decoders of lossy formats and float recordings go above 1; what goes above
# this is corrupt, or has the scale of integers. Which one (16, 24 or 32 bits), a quiet recording
# does not tell, so that nothing is guessed: a corpus would get recordings of different scales.
LOUDEST_PEAK = 16.0

_BLOCK_SAMPLES = 1 << 20
# Other rates come from corrupt headers; resampling from 1 Hz would turn seconds into hours.
_SAMPLE_RATES = (2000, 768000)
_UNKNOWN_LENGTH = 1 << 48  # more frames than this: the header has no length
_STREAMED_WAV_BYTES = 0xFFFFFF00  # data sizes from here on are placeholders of writers to a pipe

_log = logging.getLogger(__name__)


def resample(wav: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Band-limited resampling of a signal (N,), to float32; only a cast if the rates are equal."""
    wav = np.ascontiguousarray(wav, dtype=np.float32)
    if from_rate == to_rate:
        return wav
    return soxr.resample(wav, from_rate, to_rate, quality="HQ")


def load_audio(
    path: str | os.PathLike[str], sample_rate: int, min_seconds: float = 0.1
) -> np.ndarray:
    """Reads a recording as float32 (N,) at ``sample_rate`` Hz: mean of its channels, resampled.

    Args:
        path: a file of any format that libsndfile reads, sample rate and channel count. If it is
            several files or streams joined, all of them are read.
        sample_rate: rate of the result in Hz.
        min_seconds: shortest usable duration in seconds.

    Raises:
        AudioError: the file is missing, empty, not decodable, truncated, without samples, shorter
            than ``min_seconds``, silent (peak below 1e-4), above any plausible level (16 times
            full scale), or holds NaN or infinite samples.
    """
    return check_and_resample(*decode_file(path), sample_rate, min_seconds, path)


def decode_file(path: str | os.PathLike[str]) -> tuple[np.ndarray, int]:
    """Decodes an audio file.

    Returns:
        The mean of its channels, float32 (N,), and its sample rate in Hz.

    Raises:
        AudioError: it is missing, empty, not decodable, or truncated.
    """
    try:
        if os.stat(path).st_size == 0:
            raise AudioError("the file is empty", path)
        with open(path, "rb") as file:
            return _decode(path, file)
    except OSError as error:
        raise AudioError(f"cannot be read: {error.strerror or error}", path) from error


def decode_audio(data: bytes, path: str | os.PathLike[str]) -> tuple[np.ndarray, int]:
    """Decodes an audio file that is stored inside another file.

    Args:
        data: content of a file as `load_audio` takes.
        path: of the containing file, for messages.

    Returns:
        The mean of its channels, float32 (N,), and its sample rate in Hz.

    Raises:
        AudioError: the data is empty, not decodable, or truncated.
    """
    if not data:
        raise AudioError("the file is empty", path)
    return _decode(path, io.BytesIO(data))


def check_and_resample(
    wav: np.ndarray,
    source_rate: int,
    sample_rate: int,
    min_seconds: float,
    path: str | os.PathLike[str],
) -> np.ndarray:
    """Checks a decoded signal, float32 (N,), and resamples it; arguments as `load_audio`.

    Raises:
        AudioError: the signal is empty, too short, silent or too loud, or holds NaN or infinite
            samples.
    """
    if len(wav) == 0:
        raise AudioError("holds no samples", path)
    if not np.isfinite(wav).all():
        raise AudioError("holds NaN or infinite samples", path)
    seconds = len(wav) / source_rate
    if seconds < min_seconds:
        raise AudioError(f"{seconds:.3g} s is shorter than the minimum of {min_seconds:g} s", path)
    peak = float(np.abs(wav).max())
    if peak < SILENCE_PEAK:
        raise AudioError(f"is silent (peak {peak:.1e}, minimum {SILENCE_PEAK:.0e})", path)
    if peak > LOUDEST_PEAK:
        raise AudioError(
            f"has a peak of {peak:.3g} times full scale, above any plausible level "
            f"({LOUDEST_PEAK:g}): corrupt, or samples at the scale of integers, which must be "
            "divided by their full scale (32768 for 16 bits)",
            path,
        )
    return resample(wav, source_rate, sample_rate)


def write_audio(path: str | os.PathLike[str], wav: np.ndarray, sample_rate: int) -> None:
    """Writes a signal (N,) as 16-bit wav or flac, by suffix; samples outside [-1, 1] are clipped.

    Raises:
        UserError: the file cannot be written.
    """
    path = Path(path)
    pcm = np.round(np.clip(np.asarray(wav, np.float32), -1.0, 1.0) * 32767.0).astype(np.int16)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, pcm, sample_rate, subtype="PCM_16")
    except (OSError, soundfile.SoundFileError) as error:
        raise UserError(f"cannot write {path}: {error}") from error


def _decode(path: str | os.PathLike[str], file: BinaryIO) -> tuple[np.ndarray, int]:
    """Mono float32 samples (N,) of all parts of a file, and their rate: the highest of theirs."""
    try:
        parts = find_parts(file)
        size = file.seek(0, io.SEEK_END)
    except AudioError as error:
        raise AudioError(error.reason, path) from error
    decoded = []
    for number, part in enumerate(parts, 1):
        # As it is where it can be: libsndfile reads a path faster than through Python.
        whole = not part.header and (part.start, part.end) == (0, size)
        source = (
            os.fspath(path)
            if whole and not isinstance(file, io.BytesIO)
            else cast(BinaryIO, PartFile(file, part))
        )
        try:
            decoded.append(_decode_part(source, path))
        except AudioError as error:
            if len(parts) == 1:
                raise
            where = f"stream {number} of the {len(parts)} that are joined in it"
            raise AudioError(f"{where}: {error.reason}", path) from error
        if part.header:
            _log.info("%s: its header has a wrong length, all samples are read", os.fspath(path))
    decoded = [(wav, rate) for wav, rate in decoded if len(wav)] or decoded[:1]
    if len(decoded) == 1:
        return decoded[0]
    rate = max(rate for _, rate in decoded)
    _log.info("%s: %d streams are joined in it, all are read", os.fspath(path), len(decoded))
    return np.concatenate([resample(wav, own, rate) for wav, own in decoded]), rate


def _decode_part(source: BinaryIO | str, path: str | os.PathLike[str]) -> tuple[np.ndarray, int]:
    """Mono float32 samples (N,) and their rate; raises AudioError if truncated."""
    wav, rate, channels = _read(source, path, None)
    if (channel := channels.to_use()) is None:
        return wav, rate
    _log.warning(
        "%s: its channels have opposite polarity and cancel each other: channel %d alone is used",
        os.fspath(path),
        channel + 1,
    )
    wav, rate, _ = _read(source, path, channel)
    return wav, rate


@decoder_messages_hidden()
def _read(
    source: BinaryIO | str, path: str | os.PathLike[str], channel: int | None
) -> tuple[np.ndarray, int, Channels]:
    """Samples (N,) of a channel, or the mean of all, their rate, and how the channels relate."""
    try:
        if not isinstance(source, str):
            source.seek(0)
        file = soundfile.SoundFile(source)
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        raise AudioError(f"cannot be decoded as audio ({_kind(source)})", path) from error
    # Read in blocks: a corrupt header that claims billions of frames then allocates nothing.
    blocks = []
    with file:
        if file.format == "RAW":  # libsndfile's guess from the suffix
            raise AudioError("cannot be decoded as audio (it has no header)", path)
        if not _SAMPLE_RATES[0] <= file.samplerate <= _SAMPLE_RATES[1]:
            raise AudioError(f"impossible sample rate of {file.samplerate} Hz", path)
        expected = _expected_frames(file)
        block_frames = max(1, _BLOCK_SAMPLES // file.channels)
        channels = Channels(file.channels)
        try:
            while len(block := file.read(block_frames, dtype="float32", always_2d=True)):
                if channel is None and file.channels > 1:
                    channels.add(block)
                blocks.append(block.mean(axis=1) if channel is None else block[:, channel].copy())
        except soundfile.SoundFileError as error:
            raise AudioError("truncated or corrupt: decoding stopped midway", path) from error
    wav = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if len(wav) < expected:
        raise AudioError(f"truncated: {len(wav)} of the {expected} frames in its header", path)
    return wav, file.samplerate, channels


def _kind(source: BinaryIO | str) -> str:
    """What a file that libsndfile refuses may be."""
    if isinstance(source, str):
        with open(source, "rb") as file:
            return what_it_is(file.read(16))
    source.seek(0)
    return what_it_is(source.read(16))


def _expected_frames(file: soundfile.SoundFile) -> int:
    """The number of frames below which the file counts as truncated."""
    if file.frames > _UNKNOWN_LENGTH:
        return 0
    if file.format == "MP3":
        # The length of an mp3 is estimated from its bit rate, and encoders pad up to two packets.
        return max(0, int(0.98 * file.frames) - 2 * 1152)
    # libsndfile corrects the length of a wav to the file's size; the header's own value is only in
    # its log: "data : 64000 (should be 31978)".
    sizes = re.search(r"^data\s*:\s*(\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if sizes and int(sizes[2]) < int(sizes[1]) < _STREAMED_WAV_BYTES:
        return int(file.frames * int(sizes[1]) / max(1, int(sizes[2])))
    return file.frames
