"""Where speech begins and ends in a recording, by its energy: nothing to install, exact to repeat.

A frame counts as active when it is louder than the recording's own noise floor by a margin and not
too far below its loudest part; single active frames (clicks) do not count. This finds silence
around speech in recordings of ordinary quality. It does not tell speech from music.
"""

import numpy as np

_FRAME_SECONDS = 0.02
_ABOVE_FLOOR_DB = 9.0
_FAINTEST_DB = 40.0  # below the peak: never speech below it
_LOUD_DB = 25.0  # below the peak: always speech above it
_FLOOR_PERCENTILE = 10.0
_LEAST_ACTIVE_FRAMES = 3  # in a row
PADDING_SECONDS = 0.1


def speech_bounds(wav: np.ndarray, sample_rate: int) -> tuple[int, int]:
    """Half-open range of samples from the first speech to the last, with 0.1 s on either side.

    Args:
        wav: float (N,) signal.
        sample_rate: in Hz.

    Returns:
        (0, N) where no part stands out from the rest, so that nothing is ever trimmed to nothing.
    """
    hop = max(1, round(_FRAME_SECONDS * sample_rate))
    count = len(wav) // hop
    if count < _LEAST_ACTIVE_FRAMES:
        return 0, len(wav)
    frames = wav[: count * hop].reshape(count, hop).astype(np.float64)
    level = 10 * np.log10(np.mean(np.square(frames), axis=1) + 1e-12)
    peak = level.max()
    threshold = max(np.percentile(level, _FLOOR_PERCENTILE) + _ABOVE_FLOOR_DB, peak - _FAINTEST_DB)
    # Speech from end to end has no noise floor to see: what is that loud is speech in any case.
    active = level >= min(threshold, peak - _LOUD_DB)
    runs = np.convolve(active, np.ones(_LEAST_ACTIVE_FRAMES, int), "valid")
    places = np.flatnonzero(runs == _LEAST_ACTIVE_FRAMES)
    if not len(places):
        return 0, len(wav)
    padding = round(PADDING_SECONDS * sample_rate)
    start = max(0, int(places[0]) * hop - padding)
    stop = min(len(wav), (int(places[-1]) + _LEAST_ACTIVE_FRAMES) * hop + padding)
    return start, stop
