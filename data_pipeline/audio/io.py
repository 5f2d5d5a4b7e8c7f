"""Audio files: decoding with strict checks, downmixing, resampling, writing.

libsndfile decodes wav, flac, ogg and mp3; soxr resamples. Every unusable recording raises one
exception type, with a reason that goes into a failure manifest.
"""

import io
import os
import re
from pathlib import Path

import numpy as np
import soundfile
import soxr

from data_pipeline.runtime.errors import UserError

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
SILENCE_PEAK = 1e-4  # -80 dB of full scale: about three steps of a 16-bit recording

_BLOCK_SAMPLES = 1 << 20
# Other rates come from corrupt headers; resampling from 1 Hz would turn seconds into hours.
_SAMPLE_RATES = (2000, 768000)
_UNKNOWN_LENGTH = 1 << 48  # more frames than this: the header has no length
_STREAMED_WAV_BYTES = 0xFFFFFF00  # data sizes from here on are placeholders of writers to a pipe


class AudioError(UserError):
    """A recording cannot be used.

    Attributes:
        reason: what is wrong, without the path, for a failure manifest.
        path: the file, or None when the audio came from memory.
    """

    def __init__(self, reason: str, path: str | os.PathLike[str] | None = None):
        super().__init__(reason if path is None else f"{path}: {reason}")
        self.reason = reason
        self.path = None if path is None else os.fspath(path)


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
        path: a wav, flac, ogg or mp3 file of any sample rate and channel count.
        sample_rate: rate of the result in Hz.
        min_seconds: shortest usable duration in seconds.

    Raises:
        AudioError: the file is missing, empty, not decodable, truncated, without samples, shorter
            than ``min_seconds``, silent (peak below 1e-4), or holds NaN or infinite samples.
    """
    try:
        size = os.stat(path).st_size
    except OSError as error:
        raise AudioError(f"cannot be read: {error.strerror}", path) from error
    if size == 0:
        raise AudioError("the file is empty", path)
    return check_and_resample(*_decode(path), sample_rate, min_seconds, path)


def decode_audio(data: bytes, path: str | os.PathLike[str]) -> tuple[np.ndarray, int]:
    """Decodes an audio file that is stored inside another file.

    Args:
        data: content of a wav, flac, ogg or mp3 file.
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
        AudioError: the signal is empty, too short or silent, or holds NaN or infinite samples.
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


def _decode(
    path: str | os.PathLike[str], content: io.BytesIO | None = None
) -> tuple[np.ndarray, int]:
    """Mono float32 samples (N,) and their rate; raises AudioError if truncated."""
    try:
        file = soundfile.SoundFile(os.fspath(path) if content is None else content)
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError("cannot be decoded as audio (corrupt, or another format)", path) from error
    # Read in blocks: a corrupt header that claims billions of frames then allocates nothing.
    blocks = []
    with file:
        if not _SAMPLE_RATES[0] <= file.samplerate <= _SAMPLE_RATES[1]:
            raise AudioError(f"impossible sample rate of {file.samplerate} Hz", path)
        expected = _expected_frames(file)
        block_frames = max(1, _BLOCK_SAMPLES // file.channels)
        try:
            while len(block := file.read(block_frames, dtype="float32", always_2d=True)):
                blocks.append(block.mean(axis=1))
        except soundfile.SoundFileError as error:
            raise AudioError("truncated or corrupt: decoding stopped midway", path) from error
    wav = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if len(wav) < expected:
        raise AudioError(f"truncated: {len(wav)} of the {expected} frames in its header", path)
    return wav, file.samplerate


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
