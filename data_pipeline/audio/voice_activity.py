"""Energy-based voice activity detection: where speech starts and ends, deterministically.

A frame is active if it exceeds the recording's noise floor by a margin and is not too far below
its peak; shorter bursts of activity (clicks) do not count. This finds silence around speech in
recordings of ordinary quality. It does not distinguish speech from music.
"""

import numpy as np

_FRAME_SECONDS = 0.02
_ABOVE_FLOOR_DB = 9.0
_FAINTEST_DB = 40.0  # below the peak: fainter frames are never speech
_LOUD_DB = 25.0  # below the peak: louder frames are always speech
_FLOOR_PERCENTILE = 10.0
_LEAST_ACTIVE_FRAMES = 3  # consecutive
PADDING_SECONDS = 0.1


def active_frames(wav: np.ndarray, sample_rate: int) -> tuple[np.ndarray, int]:
    """Which frames of a signal are speech.

    Args:
        wav: float (N,).
        sample_rate: in Hz.

    Returns:
        Bool (T,), one for each whole frame of 20 ms, bursts of less than three frames left out, and
        the samples of a frame.
    """
    hop = max(1, round(_FRAME_SECONDS * sample_rate))
    count = len(wav) // hop
    if count < _LEAST_ACTIVE_FRAMES:
        return np.zeros(count, bool), hop
    frames = wav[: count * hop].reshape(count, hop).astype(np.float64)
    level = 10 * np.log10(np.mean(np.square(frames), axis=1) + 1e-12)
    peak = level.max()
    threshold = max(np.percentile(level, _FLOOR_PERCENTILE) + _ABOVE_FLOOR_DB, peak - _FAINTEST_DB)
    # Speech throughout leaves no noise floor to estimate: frames near the peak always count.
    loud = level >= min(threshold, peak - _LOUD_DB)
    runs = np.convolve(loud, np.ones(_LEAST_ACTIVE_FRAMES, int), "valid") == _LEAST_ACTIVE_FRAMES
    active = np.zeros(count, bool)
    for offset in range(_LEAST_ACTIVE_FRAMES):
        active[offset : offset + len(runs)] |= runs
    return active, hop


def speech_bounds(wav: np.ndarray, sample_rate: int) -> tuple[int, int]:
    """Half-open sample range from the start to the end of speech, with a margin of 0.1 s.

    Args:
        wav: float (N,).
        sample_rate: in Hz.

    Returns:
        (start, stop); (0, N) if no part stands out, so that nothing is ever trimmed to nothing.
    """
    active, hop = active_frames(wav, sample_rate)
    found = np.flatnonzero(active)
    if not len(found):
        return 0, len(wav)
    padding = round(PADDING_SECONDS * sample_rate)
    start = max(0, int(found[0]) * hop - padding)
    stop = min(len(wav), (int(found[-1]) + 1) * hop + padding)
    return start, stop


def most_speech(wav: np.ndarray, sample_rate: int, seconds: float) -> tuple[int, int, float]:
    """The stretch of a recording that holds the most speech; the first of several.

    Args:
        wav: float (N,).
        sample_rate: in Hz.
        seconds: of the stretch; a shorter recording is taken whole.

    Returns:
        Half-open sample range, and the seconds of speech in it.
    """
    active, hop = active_frames(wav, sample_rate)
    size = round(seconds * sample_rate)
    if len(wav) <= size:
        return 0, len(wav), float(active.sum()) * hop / sample_rate
    width = max(1, min(len(active), size // hop))
    speech = np.convolve(active, np.ones(width, int), "valid")
    first = int(speech.argmax())
    start = min(first * hop, len(wav) - size)
    return start, start + size, float(speech[first]) * hop / sample_rate
