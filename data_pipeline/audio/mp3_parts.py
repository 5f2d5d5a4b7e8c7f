"""MPEG audio files that were joined: several streams, with tags and length headers in between.

A decoder believes the first length header (Xing, Info, VBRI) that it meets, so frames are counted
here, and a length that leaves frames out is replaced.
"""

from dataclasses import dataclass
from functools import cache
from typing import BinaryIO

from data_pipeline.audio.parts import Part, id3_size, read_at

_BITRATES = {  # kbit/s by (version 1, layer)
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_BLOCK_BYTES = 1 << 22
_LONGEST = 1 << 13  # bytes, more than any frame
_HEADER_NAMES = (b"Xing", b"Info")


@dataclass(frozen=True)
class _Frame:
    """What the header of a frame says.

    Attributes:
        size: bytes of the frame.
        kind: version, layer, sample rate and number of channels; constant in a stream.
        bitrate: in kbit/s.
        info: offset of a length header, were the frame one.
    """

    size: int
    kind: tuple[int, int, int, int]
    bitrate: int
    info: int


@dataclass
class _Run:
    """Consecutive frames of one kind.

    Attributes:
        start: first byte.
        end: behind the last.
        last: first byte of the last frame.
        audio: first byte of the first frame that is no length header.
        kind: of all frames.
        frames: number, without a length header.
        stated: the number in its length header, None without one.
        bitrates: of the frames.
        behind_tag: whether a tag, or nothing, stands before it.
    """

    start: int
    end: int
    last: int
    audio: int
    kind: tuple[int, int, int, int]
    frames: int
    stated: int | None
    bitrates: set[int]
    behind_tag: bool = True

    def continues(self, before: "_Run") -> bool:
        """Whether it belongs to the stream before it, which something interrupts."""
        if self.stated is not None or self.kind != before.kind:
            return False
        whole = (before.stated or 0) >= before.frames + self.frames - 1
        return whole or not self.behind_tag


def mp3_parts(file: BinaryIO, size: int) -> list[Part]:
    """The parts of an mp3 file of `size` bytes."""
    runs: list[_Run] = []
    position, behind_tag = 0, True
    while position < size:
        if tag := _tag_size(file, position, size):
            position, behind_tag = position + tag, True
            continue
        run = _run(file, position, size)
        if run is not None:
            run.behind_tag = behind_tag
            if runs and run.continues(runs[-1]):
                runs[-1].end, runs[-1].frames = run.end, runs[-1].frames + run.frames
                runs[-1].bitrates |= run.bitrates
            else:
                runs.append(run)
            if run.end >= size or _tag_size(file, run.end, size) or _run(file, run.end, size):
                position, behind_tag = run.end, True
                continue
        # Something else: the next frame may start within the last one, if that was cut.
        found = _next_start(file, position + 1 if run is None else run.last + 4, size)
        if found is None:
            break
        if run is not None and found < run.end:
            runs[-1].end = found
            runs[-1].frames -= 1
        behind_tag = run is not None and found <= run.end
        position = found
    parts = [_part(file, run) for run in runs]
    if len(parts) == 1 and not parts[0].header and _only_tags_before(file, parts[0].start, size):
        return [Part(0, size)]
    return parts or [Part(0, size)]


def _part(file: BinaryIO, run: _Run) -> Part:
    """A run as a file whose length header, if it has one, does not leave frames out."""
    constant = len(run.bitrates) == 1
    if (run.stated is None and constant) or (run.stated or 0) >= run.frames - 1:
        return Part(run.start, run.end)
    header = _length_header(read_at(file, run.audio, 4), run.frames)
    return Part(run.audio, run.end, header)


def _length_header(head: bytes, frames: int) -> bytes:
    """A frame that states the number of frames of a stream; empty where there is no such thing."""
    for index in range(1, 15):
        head = bytes((0xFF, head[1] | 1, head[2] & 0x0C | index << 4, head[3]))
        frame = _frame(*head[1:])
        if frame is not None and frame.size >= 64 and frame.kind[1] == 3:
            content = b"Xing" + (1).to_bytes(4, "big") + frames.to_bytes(4, "big")
            return (head.ljust(frame.info, b"\0") + content).ljust(frame.size, b"\0")
    return b""


@cache
def _frame(second: int, third: int, fourth: int) -> _Frame | None:
    """What the bytes behind 0xFF say; None if they are no header."""
    version, layer = second >> 3 & 3, 4 - (second >> 1 & 3)
    index, rate_index, padding = third >> 4, third >> 2 & 3, third >> 1 & 1
    if second < 0xE0 or version == 1 or layer == 4 or index in (0, 15) or rate_index == 3:
        return None
    bitrate = _BITRATES[version == 3, layer][index - 1]
    rate = (44100, 48000, 32000)[rate_index] >> {3: 0, 2: 1, 0: 2}[version]
    mono = fourth >> 6 == 3
    if layer == 1:
        size = (12000 * bitrate // rate + padding) * 4
    else:
        size = (144000 if layer == 2 or version == 3 else 72000) * bitrate // rate + padding
    side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    return _Frame(size, (version, layer, rate, 1 if mono else 2), bitrate, 4 + side)


def _parse(data: bytes, offset: int) -> _Frame | None:
    if len(data) < offset + 4 or data[offset] != 0xFF:
        return None
    return _frame(data[offset + 1], data[offset + 2], data[offset + 3])


def _run(file: BinaryIO, start: int, size: int) -> _Run | None:
    """The frames from a position on, up to a change of kind or a length header."""
    data = read_at(file, start, _LONGEST)
    frame = _parse(data, 0)
    if frame is None:
        return None
    stated = _stated(data, 0, frame)
    following = _parse(data, frame.size)
    if stated is None and start + frame.size < size:  # one header alone may be chance
        tag = _tag_size(file, start + frame.size, size)
        if not tag and (following is None or following.kind[:3] != frame.kind[:3]):
            return None
    kind, first = frame.kind, start
    run = _Run(start, start, start, start, kind, 0, stated, set())
    position = start
    while position < size:
        data = read_at(file, position, min(_BLOCK_BYTES, size - position))
        offset = 0
        is_last = position + len(data) >= size
        while is_last or len(data) - offset >= _LONGEST:
            frame = _parse(data, offset)
            if frame is None or frame.kind != kind:
                return run if run.end > start else None
            is_header = _stated(data, offset, frame) is not None
            if is_header and position + offset != first:
                return run
            run.last = position + offset
            run.end = min(size, run.last + frame.size)
            if is_header:
                run.audio = run.end
            elif run.last + frame.size <= size:
                run.frames += 1
                run.bitrates.add(frame.bitrate)
            offset += frame.size
        position += offset
    return run


def _stated(data: bytes, offset: int, frame: _Frame) -> int | None:
    """The number of frames in a length header, 0 if it is not given; None if it is none."""
    start = offset + frame.info
    if data[start : start + 4] in _HEADER_NAMES:
        if not data[start + 7] & 1:
            return 0
        return int.from_bytes(data[start + 8 : start + 12], "big")
    start = offset + 36
    if data[start : start + 4] == b"VBRI":
        return int.from_bytes(data[start + 14 : start + 18], "big")
    return None


def _tag_size(file: BinaryIO, position: int, size: int) -> int:
    """Bytes of a tag, or of zeros, at a position; 0 if there is neither."""
    head = read_at(file, position, 32)
    if tag := id3_size(file, position):
        return min(tag, size - position)
    if head[:3] == b"TAG" and size - position >= 128:
        return 128
    if head[:8] == b"APETAGEX" and len(head) == 32:
        length = int.from_bytes(head[12:16], "little")
        is_header = head[23] & 0x20
        return min((32 if is_header else 0) + length if is_header else 32, size - position)
    if head and not head[0]:
        data = read_at(file, position, _BLOCK_BYTES)
        return len(data) - len(data.lstrip(b"\0"))
    return 0


def _next_start(file: BinaryIO, position: int, size: int) -> int | None:
    """The next position of a tag or of three frames in a row."""
    while position < size:
        data = read_at(file, position, _BLOCK_BYTES)
        offset = 0
        while offset < len(data):
            found = [data.find(mark, offset) for mark in (b"\xff", b"ID3")]
            offset = min((at for at in found if at >= 0), default=len(data))
            if offset >= len(data):
                break
            at_end = len(data) - offset < 4
            if data[offset] != 0xFF:
                is_start = id3_size(file, position + offset) > 0
            else:
                may_be = at_end or _parse(data, offset) is not None
                is_start = may_be and _three_frames(file, position + offset)
            if is_start:
                return position + offset
            offset += 1
        position += max(1, len(data) - 3)
        if position >= size - 3:
            return None
    return None


def _three_frames(file: BinaryIO, position: int) -> bool:
    data = read_at(file, position, 3 * _LONGEST)
    offset, kinds = 0, []
    for _ in range(3):
        frame = _parse(data, offset)
        if frame is None:
            return False
        kinds.append(frame.kind[:3])
        if _stated(data, offset, frame) is not None:
            return True
        offset += frame.size
    return kinds[0] == kinds[1] == kinds[2]


def _only_tags_before(file: BinaryIO, start: int, size: int) -> bool:
    position = 0
    while position < start and (tag := _tag_size(file, position, size)):
        position += tag
    return position == start
