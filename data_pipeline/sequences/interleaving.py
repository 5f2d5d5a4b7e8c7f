"""Text and speech of one recording in turns, for pretraining on both in one sequence.

The words are cut into spans of drawn lengths, every other of which is given as the units of its
time instead (arXiv 2402.05755; 2411.17607 draws the lengths of its spans as well). Token datasets
know no times of words: a word is taken to end at its share of the letters, which pauses and changes
of pace put off.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

Span = str | tuple[int, ...]  # text, or units


def interleave(
    text: str, units: Sequence[int], span_words: float, rng: np.random.Generator
) -> tuple[Span, ...]:
    """Spans of text and of units in turns, which together say the text once.

    Args:
        text: the transcript; words are what white space separates.
        units: semantic units of the whole recording.
        span_words: mean number of words of a span, at least 1: one more than a Poisson variable.
        rng: draws lengths, and which of the two begins.

    Raises:
        ValueError: no words, or a span of so little time that it has no unit.
    """
    words = text.split()
    if not words:
        raise ValueError("the text has no words")
    ends = np.cumsum([len(word) for word in words])
    times = np.rint(ends / ends[-1] * len(units)).astype(int)
    spoken = bool(rng.integers(2))
    spans: list[Span] = []
    first, start = 0, 0
    while first < len(words):
        last = min(first + 1 + int(rng.poisson(span_words - 1)), len(words))
        stop = int(times[last - 1])
        if spoken and stop == start:
            raise ValueError(f"the words {' '.join(words[first:last])!r} have no unit of their own")
        spans.append(tuple(units[start:stop]) if spoken else " ".join(words[first:last]))
        first, start, spoken = last, stop, not spoken
    return tuple(spans)


def generator(*keys: object) -> np.random.Generator:
    """A generator that is always the same for the same keys."""
    digest = hashlib.sha256("\0".join(map(str, keys)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
