"""A file seen as several: the parts of it that are complete audio files of their own."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class Part:
    """A stretch of a file that a decoder takes for a complete file.

    Attributes:
        start: first byte.
        end: behind the last byte.
        header: bytes to stand before them, in place of a header that says something wrong.
    """

    start: int
    end: int
    header: bytes = b""


class _Buffer(Protocol):
    def __len__(self) -> int: ...
    def __setitem__(self, index: slice, value: bytes) -> None: ...


class PartFile(io.RawIOBase):
    """A `Part` as a file for reading; the underlying file stays open."""

    def __init__(self, file: BinaryIO, part: Part):
        self._file = file
        self._part = part
        self._size = len(part.header) + part.end - part.start
        self._position = 0

    def readable(self) -> bool:
        """Whether it can be read: yes."""
        return True

    def seekable(self) -> bool:
        """Whether it has positions: yes."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a position, at least 0, and returns it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: _Buffer) -> int:  # type: ignore[override]
        """Reads into a buffer and returns the number of bytes, 0 at the end."""
        header = self._part.header
        wanted = max(0, min(len(buffer), self._size - self._position))
        data = header[self._position : self._position + wanted]
        if len(data) < wanted:
            offset = self._position + len(data) - len(header)
            data += read_at(self._file, self._part.start + offset, wanted - len(data))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def read_at(file: BinaryIO, start: int, size: int) -> bytes:
    """Up to `size` bytes from a position."""
    file.seek(start)
    return file.read(size)


@dataclass(frozen=True)
class Mark:
    """What a file starts with: bytes that are fast to find, and a pattern around them.

    Attributes:
        literal: bytes in it.
        offset: where in it they are.
        pattern: of all of it, at most 64 bytes.
    """

    literal: bytes
    offset: int
    pattern: re.Pattern[bytes]


def find_marks(file: BinaryIO, mark: Mark, start: int, end: int) -> Iterator[int]:
    """Where a mark is between two positions, in order."""
    position = start
    while position < end:
        data = read_at(file, position, min(_BLOCK_BYTES, end - position))
        last = position + len(data) >= end or not data
        usable = len(data) if last else max(1, len(data) - 64)  # what starts there is complete
        at = data.find(mark.literal, mark.offset)
        while 0 <= at < usable + mark.offset:
            if mark.pattern.match(data, at - mark.offset):
                yield position + at - mark.offset
            at = data.find(mark.literal, at + 1)
        if last:
            return
        position += usable


def only_zeros(file: BinaryIO, start: int, end: int) -> bool:
    """Whether there is nothing but zero bytes between two positions."""
    for position in range(start, end, _BLOCK_BYTES):
        if read_at(file, position, min(_BLOCK_BYTES, end - position)).strip(b"\0"):
            return False
    return True


def id3_size(file: BinaryIO, position: int) -> int:
    """Size in bytes of the ID3v2 tag at a position; 0 if there is none."""
    head = read_at(file, position, 10)
    if len(head) < 10 or head[:3] != b"ID3" or head[3] > 4 or max(head[6:]) > 127:
        return 0
    size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
    return 10 + size + (10 if head[5] & 0x10 else 0)
