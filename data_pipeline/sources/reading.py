"""The audio of an utterance: a whole file, a stretch of one, or a part of a container.

`Utterance.member` says where in the path the audio lies, as `name=value&name=value`:

    (empty)                          the path is an audio file
    start=1.5&end=3.25               seconds of an audio file
    offset=1536&size=40210&name=...  bytes of a file that hold an audio file (member of a tar)
    row=17&feature=speech&rate=16000 record of an ArrayRecord shard of a TFDS dataset
"""

import functools
from urllib.parse import parse_qsl

import numpy as np

from data_pipeline.audio.io import AudioError, check_and_resample, decode_audio, load_audio
from data_pipeline.sources.base import Utterance


def read_audio(utterance: Utterance, sample_rate: int, min_seconds: float = 0.1) -> np.ndarray:
    """Reads the audio of an utterance, whatever the source that listed it.

    Args:
        utterance: listed by any source.
        sample_rate: rate of the result in Hz.
        min_seconds: shortest usable duration in seconds.

    Returns:
        float32 (N,), mean of the channels, resampled.

    Raises:
        AudioError: see `audio.load_audio`.
    """
    if not utterance.member:
        return load_audio(utterance.path, sample_rate, min_seconds)
    where = dict(parse_qsl(utterance.member))
    wav, rate = _read(utterance.path, where)
    return check_and_resample(wav, rate, sample_rate, min_seconds, utterance.path)


def _read(path: str, where: dict[str, str]) -> tuple[np.ndarray, int]:
    """Samples (N,) and their rate."""
    if "offset" in where:
        try:
            with open(path, "rb") as file:
                file.seek(int(where["offset"]))
                data = file.read(int(where["size"]))
        except OSError as error:
            raise AudioError(f"cannot be read: {error.strerror}", path) from error
        if len(data) < int(where["size"]):
            raise AudioError(f"truncated within {where.get('name', 'a member')}", path)
        return decode_audio(data, path)
    if "row" in where:
        from data_pipeline.sources.tfds_audio import read_row

        return read_row(path, int(where["row"]), where["feature"], int(where["rate"]))
    wav, rate = _whole(path)
    start, end = round(float(where["start"]) * rate), round(float(where["end"]) * rate)
    # Times are often rounded up to the next hundredth of a second.
    if end > len(wav) + 0.05 * rate:
        raise AudioError(
            f"ends at {len(wav) / rate:.2f} s, before the segment that ends at {where['end']} s",
            path,
        )
    return wav[start:end], rate


# Segments of one recording come one after the other.
@functools.lru_cache(maxsize=1)
def _whole(path: str) -> tuple[np.ndarray, int]:
    try:
        with open(path, "rb") as file:
            return decode_audio(file.read(), path)
    except OSError as error:
        raise AudioError(f"cannot be read: {error.strerror}", path) from error
