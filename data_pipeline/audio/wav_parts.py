"""WAV files whose header is wrong, and several WAV files in one.

Samples end where the data chunk says, if what follows is chunks up to the end of the file or to
the header of a next one. If it is not, the size is wrong (too small, zero, wrapped at 4 GiB, or
left open by a writer to a pipe): samples then go on to the next header, to the chunks of metadata
that end the file, or to its end.
"""

import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

from data_pipeline.audio.errors import AudioError
from data_pipeline.audio.parts import Mark, Part, find_marks, id3_size, only_zeros, read_at

_HEADER = re.compile(rb"(?:RIFF|RIFX|RF64|BW64).{4}WAVE[ -~]{4}", re.DOTALL)
_MARK = Mark(b"WAVE", 8, _HEADER)
_METADATA = (
    b"LIST|INFO|list|id3 |ID3 |ID32|bext|iXML|axml|aXML|cue |smpl|inst|fact|PEAK|_PMX|JUNK|junk|"
    b"PAD |FLLR|DISP|acid|chna|umid|cart|levl|afsp|LGWV|minf|elm1|regn|r64m|plst|labl|note|ltxt|"
    b"strc|Fake|bxml|sxml|ubxt|dbmd|link|MD5 |SNDM|tlst|guan|guid|mext|CSET|slnt"
).split(b"|")
_NAME = re.compile(b"|".join(map(re.escape, _METADATA)))
_OTHER_FILES = (b"fLaC", b"OggS", b"FORM", b"caff", b".snd")
_MOST_METADATA = 1 << 22  # bytes
_OPEN = 0xFFFFFF00  # data sizes from here on are placeholders of writers to a pipe
# Placeholders of sox and arecord, which count with a sign.
_OPEN_SIGNED = (0x7FFFF000, 0x80000024)
_WRAP = 1 << 32


@dataclass(frozen=True)
class _Wav:
    """Where the data chunk of a file that starts at `start` has its samples, and their size."""

    start: int
    data: int
    size: int
    magic: bytes

    @property
    def big_endian(self) -> bool:
        return self.magic == b"RIFX"

    @property
    def is_open(self) -> bool:
        """Whether the size is no size."""
        if self.magic in (b"RF64", b"BW64"):
            return not 0 < self.size < 1 << 62
        return self.size >= _OPEN or _OPEN_SIGNED[0] <= self.size <= _OPEN_SIGNED[1]


def wav_parts(file: BinaryIO, size: int) -> list[Part]:
    """The parts of a file of `size` bytes that starts with the header of a WAV file."""
    parts: list[Part] = []
    start = 0
    while start < size and (wav := _open(file, start, size)) is not None:
        found, start = _parts(file, wav, size)
        parts += found
    return parts or [Part(0, size)]


def _open(file: BinaryIO, start: int, size: int) -> _Wav | None:
    """Finds the data chunk; None if there is none."""
    magic = read_at(file, start, 4)
    position, size64 = start + 12, None
    while position + 8 <= size:
        name, length = _chunk(file, position, magic == b"RIFX")
        if name == b"ds64":
            size64 = struct.unpack("<Q", read_at(file, position + 16, 8).ljust(8, b"\0"))[0]
        if name == b"data":
            if magic in (b"RF64", b"BW64") and length >= _OPEN and size64 is not None:
                length = size64
            return _Wav(start, position + 8, length, magic)
        position += 8 + length + length % 2
    return None


def _parts(file: BinaryIO, wav: _Wav, size: int) -> tuple[list[Part], int]:
    """The parts of one WAV file, and where the next one starts."""
    stated = wav.data + wav.size
    if not wav.is_open and stated <= size:
        end, more = _walk_padded(file, stated, size, wav.big_endian)
        if end is not None:
            if not more:
                return [Part(wav.start, end)], end
            return [_rewritten(file, wav, *range_) for range_ in [(wav.data, stated), *more]], end
    if not wav.is_open and (found := _wrapped(file, wav, size)) is not None:
        return [_rewritten(file, wav, wav.data, found[0])], found[1]
    limit = next(find_marks(file, _MARK, wav.data, size), size)
    if not wav.is_open and stated > limit:
        return [Part(wav.start, limit)], limit  # the decoder finds it truncated
    if not wav.is_open and only_zeros(file, stated, limit):
        return [Part(wav.start, limit)], limit  # padding
    return [_rewritten(file, wav, wav.data, _samples_end(file, wav, limit))], limit


def _wrapped(file: BinaryIO, wav: _Wav, size: int) -> tuple[int, int] | None:
    """Where samples and metadata end if the size in the header is modulo 4 GiB; else None."""
    for wraps in range((size - wav.data) // _WRAP, 0, -1):
        end = wav.data + wav.size + wraps * _WRAP
        if end <= size and (found := _walk_padded(file, end, size, wav.big_endian)[0]) is not None:
            return end, found
    return None


def _samples_end(file: BinaryIO, wav: _Wav, limit: int) -> int:
    """Where samples end before `limit` if the size in the header says nothing."""
    first = max(wav.data, limit - _MOST_METADATA)
    for match in _NAME.finditer(read_at(file, first, limit - first)):
        position = first + match.start()
        if _walk(file, position, limit, wav.big_endian, strict=True)[0] == limit:
            return position
    if read_at(file, limit - 128, 3) == b"TAG" and limit - 128 >= wav.data:
        return limit - 128
    return limit


def _walk_padded(
    file: BinaryIO, start: int, size: int, big_endian: bool
) -> tuple[int | None, list[tuple[int, int]]]:
    """`_walk` from the end of a chunk, behind its padding byte or where that was forgotten."""
    found: tuple[int | None, list[tuple[int, int]]] = (None, [])
    for position in (start + start % 2, start + 1 - start % 2):
        if size - position in (-1, 0):
            return size, []
        found = _walk(file, position, size, big_endian)
        if found[0] is not None:
            return found
    return found


def _walk(
    file: BinaryIO, position: int, size: int, big_endian: bool, strict: bool = False
) -> tuple[int | None, list[tuple[int, int]]]:
    """Follows chunks to the end of the file or to the header of the next file.

    Args:
        file: to read.
        position: of the first chunk.
        size: of the file.
        big_endian: order of bytes in sizes.
        strict: metadata whose own size is wrong is not accepted either.

    Raises:
        AudioError: it meets a file of another format.

    Returns:
        The position that it ends at, None if it meets something else than chunks; and the ranges
        of further data chunks.
    """
    more: list[tuple[int, int]] = []
    metadata = False
    while size - position >= 8:
        head = read_at(file, position, 16)
        if _HEADER.match(head):
            return position, more
        if head.startswith(_OTHER_FILES):
            raise AudioError(f"is followed by a file of another format from byte {position} on")
        name, length = _chunk(file, position, big_endian)
        end = position + 8 + length
        known = name in _METADATA
        if not strict and ((end > size and known) or id3_size(file, position)):
            return next(find_marks(file, _MARK, position, size), size), more
        if not re.fullmatch(rb"[ -~]{4}", name) or end > size:
            if metadata and not strict:  # garbage behind metadata
                return next(find_marks(file, _MARK, position, size), size), more
            return None, []
        metadata |= known
        if name == b"data":
            more.append((position + 8, end))
        padded = end + length % 2
        forgotten = padded > end and re.fullmatch(rb"[ -~]{4}", read_at(file, end, 4))
        position = end if forgotten and not _printable(file, padded) else padded
    return (size if position >= size or metadata else None), more


def _printable(file: BinaryIO, position: int) -> bool:
    return re.fullmatch(rb"[ -~]{4}", read_at(file, position, 4)) is not None


def _chunk(file: BinaryIO, position: int, big_endian: bool) -> tuple[bytes, int]:
    """Name and size of a chunk."""
    head = read_at(file, position, 8).ljust(8, b"\0")
    return head[:4], int.from_bytes(head[4:], "big" if big_endian else "little")


def _rewritten(file: BinaryIO, wav: _Wav, start: int, end: int) -> Part:
    """Samples behind a header that states their size."""
    length = end - start
    order = "big" if wav.big_endian else "little"
    chunks = b""
    position = wav.start + 12
    while position < wav.data - 8:  # without sizes of the whole: fact, ds64
        name, size = _chunk(file, position, wav.big_endian)
        if name not in (b"ds64", b"fact"):
            chunks += read_at(file, position, 8 + size + size % 2)
        position += 8 + size + size % 2
    if len(chunks) + length + 64 < _OPEN or wav.big_endian:
        riff = wav.magic if wav.big_endian else b"RIFF"
        total = min(4 + len(chunks) + 8 + length, _WRAP - 1)
        header = riff + total.to_bytes(4, order) + b"WAVE" + chunks  # type: ignore[arg-type]
        header += b"data" + min(length, _WRAP - 1).to_bytes(4, order)  # type: ignore[arg-type]
    else:
        total = 4 + 36 + len(chunks) + 8 + length
        sizes = struct.pack("<QQQI", total, length, 0, 0)
        header = b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<I", len(sizes)) + sizes
        header += chunks + b"data\xff\xff\xff\xff"
    return Part(start, end, header)
