"""Reads the audio of an utterance: a file, a segment of one, or a member of a container.

`Utterance.member` locates the audio within the path, as `name=value&name=value`:

    (empty)                          the path is an audio file
    start=1.5&end=3.25               segment of an audio file, in seconds
    offset=1536&size=40210&name=...  byte range that holds an audio file (member of a tar)
    row=17&feature=speech&rate=16000 record of an ArrayRecord shard of a TFDS dataset
    row=17&column=audio              row of a Parquet or Arrow file (hf://... is one on the hub)

Behind a file or a byte range, `start` and `end` may follow, and `channel=1`: that channel alone,
counted from 0. Records store path and member as one text, `path?member`, see `stored_source`.
"""

import functools
import os
from collections.abc import Callable, Sequence
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
from data_pipeline.sources.base import ON_HUB, Utterance, encode_member
from data_pipeline.sources.one_channel import decode_channel

# The names in a member, and what their values are read by.
_Values = dict[str, Callable[[str], object]]
_BYTES: _Values = {"offset": int, "size": int, "name": str}
_SPAN: _Values = {"start": float, "end": float}
_CHANNEL: _Values = {"channel": int}
_NONE: _Values = {}
_LOCATIONS: tuple[_Values, ...] = (
    *(
        inside | span | channel
        for inside in (_NONE, _BYTES)
        for span in (_NONE, _SPAN)
        for channel in (_NONE, _CHANNEL)
        if inside or span or channel
    ),
    {"row": int, "feature": str, "rate": int},
    {"row": int, "column": str},
)


def stored_source(utterance: Utterance, root: str | os.PathLike[str]) -> str:
    """Where the audio of an utterance is, as a record stores it: `path` or `path?member`.

    Args:
        utterance: as listed by a source.
        root: directory that the path is written relative to.
    """
    path = utterance.path
    if not path.startswith(ON_HUB):
        path = os.path.relpath(path, root)
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
    path = path if path.startswith(ON_HUB) else str(Path(root, path))
    return Utterance(id=source, path=path, speaker="", member=member)


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
    if "feature" in location:
        from data_pipeline.sources.tfds_audio import read_row

        return read_row(path, int(location["row"]), location["feature"], int(location["rate"]))
    if "column" in location:
        return decode_audio(_row(path, location), path)
    inside = tuple(location.get(name) for name in _BYTES)
    wav, rate = _decode(path, file_state(path), inside, location.get("channel"))
    if "start" not in location:
        return wav, rate
    start, end = round(float(location["start"]) * rate), round(float(location["end"]) * rate)
    # Times are often rounded up to the next hundredth of a second.
    if end > len(wav) + 0.05 * rate:
        raise AudioError(
            f"ends at {len(wav) / rate:.2f} s, before the segment that ends at {location['end']} s",
            path,
        )
    return wav[start:end], rate


def _row(path: str, location: dict[str, str]) -> bytes:
    from data_pipeline.sources.hf_datasets.rows import row_bytes

    return row_bytes(path, int(location["row"]), location["column"])


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
        if "column" in location:
            return Content(*state, digest(_row(path, location)))
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
def _decode(
    path: str, state: FileState, inside: tuple[str | None, ...], channel: str | None
) -> tuple[np.ndarray, int]:
    """Samples (N,) of a file, or of its byte range `inside`; all channels, or one."""
    del state
    if any(inside):
        data = _byte_range(path, dict(zip(_BYTES, map(str, inside), strict=True)))
        if channel is None:
            return decode_audio(data, path)
        return decode_channel(data, path, int(channel))
    return decode_file(path) if channel is None else decode_channel(path, path, int(channel))
