"""Recordings that are in a file one behind the other, or behind a header with a wrong length.

Files joined by `cat`, chained streams and unfinished headers are common in collected corpora, and a
decoder stops at the first end that the container states. `find_parts` says where everything is.
"""

import io
import re
from dataclasses import dataclass
from typing import BinaryIO, Literal, cast

from data_pipeline.audio.errors import AudioError
from data_pipeline.audio.flac_parts import flac_parts
from data_pipeline.audio.mp3_parts import mp3_parts
from data_pipeline.audio.ogg_parts import ogg_parts
from data_pipeline.audio.parts import (
    Mark,
    Part,
    PartFile,
    find_marks,
    id3_size,
    only_zeros,
    read_at,
)
from data_pipeline.audio.wav_parts import wav_parts

_WAV = (b"RIFF", b"RIFX", b"RF64", b"BW64")
_AU_HEADER_BYTES = 24
_MOST_JUNK = 256  # bytes behind the last chunk that writers leave, such as a tag
# Starts of files of other kinds that may be joined; each long enough not to occur by chance.
_JOINED = {
    name: Mark(name, 0, re.compile(pattern, re.DOTALL))
    for name, pattern in {
        b"FORM": rb"FORM.{4}AIF[FC](?:COMM|FVER|SSND|MARK|NAME)",
        b".snd": rb"\.snd\x00\x00.{2}.{4}\x00\x00\x00.\x00.{3}\x00\x00.{2}",
        b"caff": rb"caff\x00\x01..desc",
        b"riff": rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00",
    }.items()
}


@dataclass(frozen=True)
class _Chunks:
    """How a format stores chunks.

    Attributes:
        first: offset of the first.
        name: bytes of its name; the first four are text.
        size: bytes of its size.
        order: of those.
        align: chunks start at multiples of this.
        whole: whether its size counts name and size.
        samples: name of the chunk that holds the samples.
    """

    first: int
    name: int
    size: int
    order: Literal["big", "little"]
    align: int
    whole: bool
    samples: bytes


_CHUNKS = {
    b"FORM": _Chunks(12, 4, 4, "big", 2, False, b"SSND"),
    b"caff": _Chunks(8, 4, 8, "big", 1, False, b"data"),
    b"riff": _Chunks(40, 16, 8, "little", 8, True, b"data"),
}


def find_parts(file: BinaryIO) -> list[Part]:
    """The complete audio files that a file consists of, in order; usually itself alone.

    Raises:
        AudioError: samples are missing, and the decoder would not notice.
    """
    size = file.seek(0, io.SEEK_END)
    magic = read_at(file, 0, 4)
    if magic in _WAV:
        return wav_parts(file, size)
    if magic == b"OggS":
        return ogg_parts(file, size)
    if magic == b"fLaC":
        return flac_parts(file, size)
    if magic in _JOINED:
        return _joined(file, magic, size)
    if start := id3_size(file, 0):
        rest = Part(start, size)
        if read_at(file, start, 4) in (b"OggS", b"fLaC", b"ID3\3", b"ID3\4", *_WAV, *_JOINED):
            inner = find_parts(cast(BinaryIO, PartFile(file, rest)))
            return [Part(start + part.start, start + part.end, part.header) for part in inner]
    if start or magic[:1] == b"\xff":
        return mp3_parts(file, size)
    return [Part(0, size)]


def _joined(file: BinaryIO, magic: bytes, size: int) -> list[Part]:
    starts = [0, *find_marks(file, _JOINED[magic], 1, size)]
    parts = [Part(*range_) for range_ in zip(starts, [*starts[1:], size], strict=True)]
    if magic == b".snd":
        return [_au(file, part) for part in parts]
    for part in parts:
        _check_end(file, part, _CHUNKS[magic])
    return parts


def _au(file: BinaryIO, part: Part) -> Part:
    """An AU file has nothing behind its samples: a size that ends before is replaced."""
    head = read_at(file, part.start, _AU_HEADER_BYTES)
    offset, length = int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:12], "big")
    if len(head) < _AU_HEADER_BYTES or offset + length >= part.end - part.start:
        return part
    header = read_at(file, part.start, offset)
    header = header[:8] + b"\xff\xff\xff\xff" + header[12:]
    return Part(part.start + offset, part.end, header)


def _check_end(file: BinaryIO, part: Part, chunks: _Chunks) -> None:
    """Refuses a file that has something else than chunks and padding behind its samples."""
    size = part.end - part.start
    position, behind_samples = chunks.first, False
    while position + chunks.name + chunks.size <= size:
        head = read_at(file, part.start + position, chunks.name + chunks.size)
        if behind_samples and not re.match(rb"[ -~]{4}", head):
            unpadded = re.match(rb"[ -~]{4}", read_at(file, part.start + position - 1, 4))
            junk = size - position < _MOST_JUNK
            if junk or unpadded or only_zeros(file, part.start + position, part.end):
                return
            raise AudioError(
                f"its header gives fewer samples than it holds: {size - position} bytes follow "
                "(rewrite it, for example with ffmpeg)"
            )
        length = int.from_bytes(head[chunks.name :], chunks.order)
        behind_samples |= head[:4] == chunks.samples
        position += max(length, 1) if chunks.whole else len(head) + length
        position += -position % chunks.align
