"""Ogg files of several logical streams, one behind the other (Vorbis, Opus, FLAC)."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from data_pipeline.audio.errors import AudioError
from data_pipeline.audio.parts import Part, read_at

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_HEAD_BYTES = 27
_FIRST_OF_STREAM = 2


@dataclass(frozen=True)
class _Page:
    start: int
    end: int
    first_of_stream: bool
    stream: int
    number: int


def ogg_parts(file: BinaryIO, size: int) -> list[Part]:
    """The parts of an Ogg file of `size` bytes.

    Raises:
        AudioError: a page is incomplete, missing or corrupt: the decoder would leave it out.
    """
    starts: list[int] = []
    ends: list[int] = []
    expected: dict[int, int] = {}  # by stream: the number of its next page
    in_heads = False  # several streams at once start with their first pages together
    for page in _pages(file, size):
        if page.first_of_stream:
            if not in_heads:
                starts.append(page.start)
                ends.append(page.end)
                expected = {}
        elif page.number != expected.get(page.stream, page.number):
            raise AudioError(f"corrupt: pages of its stream are missing before byte {page.start}")
        elif page.stream not in expected:
            raise AudioError(f"corrupt: the start of the stream at byte {page.start} is missing")
        in_heads = page.first_of_stream
        expected[page.stream] = page.number + 1
        ends[-1] = page.end
    return [Part(start, end) for start, end in zip(starts, ends, strict=True)] or [Part(0, size)]


def _pages(file: BinaryIO, size: int) -> Iterator[_Page]:
    position = 0
    while position < size:
        head = read_at(file, position, _HEAD_BYTES + 255)
        if head[:4] != b"OggS":  # tags or padding: a page is missed by its number
            found = _next_page(file, position + 1, size)
            if found is None:
                return
            position = found
            continue
        lengths = head[_HEAD_BYTES : _HEAD_BYTES + head[26]] if len(head) > _HEAD_BYTES else b""
        end = position + _HEAD_BYTES + len(lengths) + sum(lengths)
        if len(head) < _HEAD_BYTES or len(lengths) < head[26] or end > size:
            raise AudioError("truncated: the file ends within a page")
        page = read_at(file, position, end - position)
        stream, number, checksum = struct.unpack("<III", head[14:26])
        if checksum != _checksum(page[:22] + bytes(4) + page[26:]):
            raise AudioError(f"corrupt: wrong checksum of the page at byte {position}")
        yield _Page(position, end, bool(head[5] & _FIRST_OF_STREAM), stream, number)
        position = end


def _next_page(file: BinaryIO, position: int, size: int) -> int | None:
    while position < size:
        data = read_at(file, position, 1 << 16)
        if (index := data.find(b"OggS")) >= 0:
            return position + index
        position += max(1, len(data) - 3)
    return None


def _checksum(page: bytes) -> int:
    """CRC-32 of Ogg: the polynomial of zlib's, but bits in reverse order and no inversion."""
    crc = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)
