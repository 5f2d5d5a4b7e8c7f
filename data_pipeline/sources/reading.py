"""Reads the audio of an utterance: a file, a segment of one, or a member of a container.

`Utterance.member` locates the audio within the path, as `name=value&name=value`:

    (empty)                          the path is an audio file
    start=1.5&end=3.25               segment of an audio file, in seconds
    offset=1536&size=40210&name=...  byte range that holds an audio file (member of a tar)
    row=17&feature=speech&rate=16000 record of an ArrayRecord shard of a TFDS dataset
"""

import functools
from urllib.parse import parse_qsl

import numpy as np

from data_pipeline.audio.io import AudioError, check_and_resample, decode_audio, load_audio
from data_pipeline.sources.base import Utterance


def read_audio(utterance: Utterance, sample_rate: int, min_seconds: float = 0.1) -> np.ndarray:
    """Reads the audio of an utterance of any source.

    Args:
        utterance: as listed by a source.
        sample_rate: rate of the result in Hz.
        min_seconds: shortest usable duration in seconds.

    Returns:
        float32 (N,): the mean of the channels, resampled.

    Raises:
        AudioError: see `audio.io.load_audio`.
    """
    if not utterance.member:
        return load_audio(utterance.path, sample_rate, min_seconds)
    location = dict(parse_qsl(utterance.member))
    wav, rate = _read(utterance.path, location)
    return check_and_resample(wav, rate, sample_rate, min_seconds, utterance.path)


def _read(path: str, location: dict[str, str]) -> tuple[np.ndarray, int]:
    """Samples (N,) and their rate."""
    if "offset" in location:
        try:
            with open(path, "rb") as file:
                file.seek(int(location["offset"]))
                data = file.read(int(location["size"]))
        except OSError as error:
            raise AudioError(f"cannot be read: {error.strerror}", path) from error
        if len(data) < int(location["size"]):
            raise AudioError(f"truncated within {location.get('name', 'a member')}", path)
        return decode_audio(data, path)
    if "row" in location:
        from data_pipeline.sources.tfds_audio import read_row

        return read_row(path, int(location["row"]), location["feature"], int(location["rate"]))
    wav, rate = _decode_file(path)
    start, end = round(float(location["start"]) * rate), round(float(location["end"]) * rate)
    # Times are often rounded up to the next hundredth of a second.
    if end > len(wav) + 0.05 * rate:
        raise AudioError(
            f"ends at {len(wav) / rate:.2f} s, before the segment that ends at {location['end']} s",
            path,
        )
    return wav[start:end], rate


# Segments of a recording are usually read one after the other.
@functools.lru_cache(maxsize=1)
def _decode_file(path: str) -> tuple[np.ndarray, int]:
    try:
        with open(path, "rb") as file:
            return decode_audio(file.read(), path)
    except OSError as error:
        raise AudioError(f"cannot be read: {error.strerror}", path) from error
