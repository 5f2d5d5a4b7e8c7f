"""Audio while frames are made: every sample is handed on as soon as later frames cannot change it.

Codecs whose decoder looks ahead by a known number of frames decode all frames so far with each
chunk, which gives the samples of the whole speech. Others, such as pretrained networks, decode the
last second again, and the seams are cross-faded.
"""

import time
from collections.abc import Callable, Generator, Iterator

import numpy as np

_DEFAULT_LOOKAHEAD = 4
_CONTEXT_SECONDS = 1.0
# Where all frames are decoded again, a chunk is at least this share of what was sent, so that the
# work stays in proportion to the duration; a listener has heard less than was sent by then.
_LEAST_SHARE = 0.2
_FADE_SECONDS = 0.01


class AudioStream:
    """Decodes a growing number of frames.

    Args:
        decode: codes (Q, T), or latents (T, D), to a signal (N,).
        axis: of time in frames.
        hop: samples per frame.
        lookahead: frames at the end whose samples later frames change.
        fade: samples over which a chunk is joined to the one before.
        context: frames before a chunk that are decoded with it; None: all.
    """

    def __init__(
        self,
        decode: Callable[[np.ndarray], np.ndarray],
        axis: int,
        hop: int,
        lookahead: int,
        fade: int,
        context: int | None = None,
    ):
        self._decode, self._axis, self._hop = decode, axis, hop
        self._lookahead, self._fade, self._context = lookahead, fade, context
        self._frames: list[np.ndarray] = []
        self._sent = 0
        self._tail = np.zeros(0, np.float32)  # what the last decoding made of the next samples

    def add(self, frames: np.ndarray) -> np.ndarray:
        """The samples (n,) that are final once these frames are there."""
        self._frames.append(frames)
        count = sum(part.shape[self._axis] for part in self._frames)
        stop = (count - self._lookahead) * self._hop
        least = 0 if self._context is not None else _LEAST_SHARE * self._sent
        return self._send(stop) if stop - self._sent >= least else np.zeros(0, np.float32)

    def end(self) -> np.ndarray:
        """The samples that were held back."""
        return self._send(None)

    def _send(self, stop: int | None) -> np.ndarray:
        if not self._frames or (stop is not None and stop <= self._sent):
            return np.zeros(0, np.float32)
        frames = np.concatenate(self._frames, axis=self._axis)
        first = 0
        if self._context is not None:
            first = max(0, self._sent // self._hop - self._context)
            frames = np.take(frames, np.arange(first, frames.shape[self._axis]), axis=self._axis)
        wav = np.array(self._decode(frames), np.float32)
        skipped = first * self._hop
        end = skipped + len(wav)
        stop = end if stop is None else min(stop, end)
        begin = wav[self._sent - skipped : stop - skipped]
        joined = min(len(self._tail), len(begin))
        if joined:
            weight = np.linspace(0, 1, joined, dtype=np.float32)
            begin[:joined] = (1 - weight) * self._tail[:joined] + weight * begin[:joined]
        self._tail = wav[stop - skipped : stop - skipped + self._fade].copy()
        self._sent = max(stop, self._sent)
        return begin


def audio_stream(codec, continuous: bool) -> AudioStream:
    """The stream of a codec, of codes or of latents."""
    hop = round(codec.sample_rate / codec.frame_rate)
    lookahead = getattr(codec, "lookahead_frames", None)
    known = lookahead is not None
    return AudioStream(
        codec.decode_vectors if continuous else codec.decode,
        axis=0 if continuous else 1,
        hop=hop,
        lookahead=lookahead if lookahead is not None else _DEFAULT_LOOKAHEAD,
        fade=round(_FADE_SECONDS * codec.sample_rate),
        context=None if known else round(_CONTEXT_SECONDS * codec.frame_rate),
    )


class Clock:
    """When the first audio was there, and how long all took, in seconds."""

    def __init__(self):
        self._started = time.monotonic()
        self.first: float | None = None
        self._samples = 0

    def count(self, wav: np.ndarray) -> None:
        """Takes note of samples that are handed on."""
        if len(wav) and self.first is None:
            self.first = time.monotonic() - self._started
        self._samples += len(wav)

    def info(self, sample_rate: int) -> dict[str, float | None]:
        """JSON values for results."""
        wall = time.monotonic() - self._started
        seconds = self._samples / sample_rate
        return {
            "first_audio_seconds": None if self.first is None else round(self.first, 3),
            "wall_seconds": round(wall, 3),
            "real_time_factor": round(wall / seconds, 3) if seconds else None,
        }


def samples_of(
    frames: Iterator[np.ndarray], stream: AudioStream
) -> Generator[np.ndarray, None, None]:
    """Signals (n,), n > 0, of frames as they come."""
    for chunk in frames:
        wav = stream.add(chunk)
        if len(wav):
            yield wav
    wav = stream.end()
    if len(wav):
        yield wav
