"""FLAC files of several streams, and those whose header lacks or understates their length."""

import re
from dataclasses import dataclass
from typing import BinaryIO

from data_pipeline.audio.parts import Mark, Part, find_marks, id3_size, read_at

# The mark of a stream and the head of its first block.
_START = Mark(b"fLaC", 0, re.compile(rb"fLaC[\x00\x80]\x00\x00\x22"))
_FRAME = Mark(b"\xff", 0, re.compile(rb"\xff[\xf8\xf9]"))
_TAG = Mark(b"ID3", 0, re.compile(rb"ID3"))
_MOST_TAG = 1 << 20
_BLOCK_SIZES = (0, 192, 576, 1152, 2304, 4608, 0, 0, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)


@dataclass(frozen=True)
class _Stream:
    """A stream's header.

    Attributes:
        metadata: bytes up to the first frame.
        block_size: frames of audio in a block, the smallest.
        largest: bytes of a block, at most.
        total: frames of audio, 0 if not stated.
    """

    metadata: bytes
    block_size: int
    largest: int
    total: int

    def with_total(self, total: int) -> bytes:
        """The metadata with another length, and no checksum of the samples."""
        high = bytes((self.metadata[21] & 0xF0 | total >> 32,))
        low = (total & 0xFFFFFFFF).to_bytes(4, "big")
        return self.metadata[:21] + high + low + bytes(16) + self.metadata[42:]


def flac_parts(file: BinaryIO, size: int) -> list[Part]:
    """The parts of a FLAC file of `size` bytes."""
    parts: list[Part] = []
    start: int | None = next(find_marks(file, _START, id3_size(file, 0), size), None)
    while start is not None:
        stream = _stream(file, start, size)
        following = next(find_marks(file, _START, start + len(stream.metadata), size), None)
        end = size if following is None else _without_tag(file, start, following)
        total = _last_frame_end(file, stream, start + len(stream.metadata), end)
        if total > stream.total:
            parts.append(Part(start + len(stream.metadata), end, stream.with_total(total)))
        else:
            parts.append(Part(start, end))
        start = following
    if len(parts) == 1 and not parts[0].header:
        return [Part(0, size)]
    return parts or [Part(0, size)]


def _stream(file: BinaryIO, start: int, size: int) -> _Stream:
    position, last = start + 4, False
    while not last and position + 4 <= size:
        head = read_at(file, position, 4)
        last = bool(head[0] & 0x80)
        position += 4 + int.from_bytes(head[1:], "big")
    metadata = read_at(file, start, min(position, size) - start).ljust(42, b"\0")
    info = metadata[8:42]
    packed = int.from_bytes(info[10:18], "big")  # rate 20, channels 3, bits 5, total 36
    channels, bits = (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1
    longest = int.from_bytes(info[2:4], "big")
    return _Stream(
        metadata=metadata,
        block_size=int.from_bytes(info[0:2], "big"),
        largest=int.from_bytes(info[7:10], "big") or longest * channels * bits // 8 + 64,
        total=packed & (1 << 36) - 1,
    )


def _without_tag(file: BinaryIO, start: int, end: int) -> int:
    """Where a stream ends that a tag of the next one may follow."""
    first = max(start, end - _MOST_TAG)
    for position in find_marks(file, _TAG, first, end):
        if position + id3_size(file, position) == end:
            return position
    return end


def _last_frame_end(file: BinaryIO, stream: _Stream, start: int, end: int) -> int:
    """Length of a stream up to the end of its last block; 0 if no block is found."""
    first = max(start, end - 2 * stream.largest - (1 << 16))
    sample = read_at(file, start, 4).ljust(4, b"\0")
    ranges = []
    for position in find_marks(file, _FRAME, first, end):
        head = read_at(file, position, 16).ljust(16, b"\0")
        # Every block of a stream has its first one's strategy, sample rate and sample size.
        if head[1] != sample[1] or (head[3] ^ sample[3]) & 0x0F:
            continue
        if (found := _frame_range(head, stream.block_size)) is not None:
            ranges.append(found)
    if any(stop == stream.total for _, stop in ranges):
        return stream.total
    # A false one, by chance in the samples, does not continue another.
    stops = {stop for _, stop in ranges}
    chained = [stop for begin, stop in ranges if begin in stops or begin == 0]
    return max(chained, default=0)


def _frame_range(head: bytes, block_size: int) -> tuple[int, int] | None:
    """The range of audio frames of a block; None if its header is none."""
    size_code, rate_code = head[2] >> 4, head[2] & 15
    if size_code == 0 or rate_code == 15 or head[3] & 1:
        return None
    extra = next((7 - bit for bit in range(7, -1, -1) if not head[4] >> bit & 1), 8)
    if extra == 1 or extra > 7:
        return None
    number = head[4] & (0x7F if extra == 0 else (1 << 6 - extra if extra < 7 else 1) - 1)
    index = 5
    for _ in range(extra - 1):
        number = number << 6 | head[index] & 0x3F
        index += 1
    size = _BLOCK_SIZES[size_code]
    if size_code in (6, 7):
        size = int.from_bytes(head[index : index + size_code - 5], "big") + 1
        index += size_code - 5
    index += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if index >= len(head) or _crc8(head[:index]) != head[index]:
        return None
    begin = number if head[1] & 1 else number * block_size
    return begin, begin + size


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07) & 0xFF if crc & 0x80 else crc << 1
    return crc
