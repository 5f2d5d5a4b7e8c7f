"""Reads the audio of an utterance: a file, a segment of one, or a member of a container.

`Utterance.member` locates the audio within the path, as `name=value&name=value`:

    (empty)                          the path is an audio file
    start=1.5&end=3.25               segment of an audio file, in seconds
    offset=1536&size=40210&name=...  byte range that holds an audio file (member of a tar)
    row=17&feature=speech&rate=16000 record of an ArrayRecord shard of a TFDS dataset

Records store both as one text, `path?member`, see `stored_source`.
"""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np

from data_pipeline.audio.io import (
    AudioError,
    check_and_resample,
    decode_audio,
    decode_file,
    load_audio,
)
from data_pipeline.runtime.contents import (
    Content,
    FileState,
    digest,
    file_digest,
    file_state,
    require_unchanged,
)
from data_pipeline.sources.base import Utterance, encode_member

# The names in a member, and what their values are read by.
_LOCATIONS = (
    {"start": float, "end": float},
    {"offset": int, "size": int, "name": str},
    {"row": int, "feature": str, "rate": int},
)


def stored_source(utterance: Utterance, root: str | os.PathLike[str]) -> str:
    """Where the audio of an utterance is, as a record stores it: `path` or `path?member`.

    Args:
        utterance: as listed by a source.
        root: directory that the path is written relative to.
    """
    path = os.path.relpath(utterance.path, root)
    return f"{path}?{utterance.member}" if utterance.member else path


def split_source(source: str) -> tuple[str, str]:
    """Path and member of what `stored_source` wrote; the member is empty for a whole file.

    The member has no question mark of its own, so it is what follows the last one, and only if it
    is one of the members above to the letter: paths may hold question marks too.
    """
    path, mark, member = source.rpartition("?")
    if not mark or not path:
        return source, ""
    location = dict(parse_qsl(member, keep_blank_values=True))
    try:
        for kind in _LOCATIONS:
            if list(kind) == list(location):
                for name, value in location.items():
                    kind[name](value)
                if encode_member(**location) == member:
                    return path, member
    except ValueError:
        pass
    return source, ""


def stored_utterance(source: str, root: str | os.PathLike[str]) -> Utterance:
    """The utterance, for `read_audio`, that a record's `source` names below a directory."""
    whole = Path(root, source)
    path, member = (source, "") if whole.is_file() else split_source(source)
    return Utterance(id=source, path=str(Path(root, path)), speaker="", member=member)


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
        return decode_audio(_byte_range(path, location), path)
    if "row" in location:
        from data_pipeline.sources.tfds_audio import read_row

        return read_row(path, int(location["row"]), location["feature"], int(location["rate"]))
    wav, rate = _decode_file(path, file_state(path))
    start, end = round(float(location["start"]) * rate), round(float(location["end"]) * rate)
    # Times are often rounded up to the next hundredth of a second.
    if end > len(wav) + 0.05 * rate:
        raise AudioError(
            f"ends at {len(wav) / rate:.2f} s, before the segment that ends at {location['end']} s",
            path,
        )
    return wav[start:end], rate


def content_of(utterance: Utterance) -> Content:
    """What an utterance holds: a digest of the bytes that it is decoded from.

    These are its file, also for a segment, or its member of a container. An utterance that cannot
    be read has an empty digest, which is a content too.
    """
    path, location = utterance.path, dict(parse_qsl(utterance.member))
    state = file_state(path)
    try:
        if "offset" in location:
            return Content(*state, digest(_byte_range(path, location)))
        if "row" in location:
            from data_pipeline.sources.tfds_audio import row_bytes

            return Content(*state, digest(row_bytes(path, int(location["row"]))))
        return Content(*state, file_digest(path, state))
    except (AudioError, OSError, RuntimeError, ValueError):
        return Content(*state, "")


def require_same_contents(
    utterances: Sequence[Utterance], stored: Sequence[Content], what: str, remedy: str
) -> list[Content]:
    """Returns what the utterances hold now; raises UserError where that is something else.

    Args:
        utterances: of any source.
        stored: what each of them held.
        what: was made of them, the beginning of the message.
        remedy: its end.
    """
    paths = [utterance.path for utterance in utterances]
    return require_unchanged(paths, lambda n: content_of(utterances[n]), stored, what, remedy)


def _byte_range(path: str, location: dict[str, str]) -> bytes:
    size = int(location["size"])
    try:
        with open(path, "rb") as file:
            file.seek(int(location["offset"]))
            data = file.read(size)
    except OSError as error:
        raise AudioError(f"cannot be read: {error.strerror}", path) from error
    if len(data) < size:
        raise AudioError(f"truncated within {location.get('name', 'a member')}", path)
    return data


# Segments of a recording are usually read one after the other. The state tells a file from another
# that has taken its name.
@functools.lru_cache(maxsize=1)
def _decode_file(path: str, state: FileState) -> tuple[np.ndarray, int]:
    del state
    return decode_file(path)
