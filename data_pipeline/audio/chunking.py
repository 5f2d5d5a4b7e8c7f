"""Cuts recordings into chunks, one per record: evenly, or by the rule of the GPST paper's code.

Both rules depend on sample counts alone, so that a corpus is cut identically on every machine.
"""

import math
from collections.abc import Iterator
from fractions import Fraction

from data_pipeline.tokens import TokenLayout

RULES = ("even", "paper")
# The shortest remainder that the paper's rule keeps, as a chunk of its own.
PAPER_REMAINDER_SECONDS = 1.0


def chunk_bounds(
    num_samples: int,
    sample_rate: int,
    chunk_seconds: float,
    layout: TokenLayout,
    rule: str = "even",
) -> list[tuple[int, int]]:
    """Half-open sample ranges of the chunks of a recording, in order.

    `even` makes as few chunks as possible, of about equal length: there is no short remainder, and
    nothing is dropped or repeated. Where the rates allow it, chunks end at a token boundary of both
    streams.

    `paper` is the published preprocessing of GPST (arXiv 2406.00976): chunks of `chunk_seconds`
    from the start; a remainder below one second is dropped; a longer one is extended to the last
    `chunk_seconds` of the recording, which overlap the previous chunk. The overlap is visible in
    the records' offsets.

    Args:
        num_samples: of the recording.
        sample_rate: in Hz.
        chunk_seconds: longest chunk.
        layout: the rates of both streams.
        rule: one of `RULES`.
    """
    if rule not in RULES:
        raise ValueError(f"chunking rule {rule!r} is not one of {', '.join(RULES)}")
    if num_samples <= chunk_seconds * sample_rate:
        return [(0, num_samples)]
    if rule == "even":
        return list(_even(num_samples, sample_rate, chunk_seconds, layout))
    size = math.floor(chunk_seconds * sample_rate)
    bounds = [(start, start + size) for start in range(0, num_samples - size + 1, size)]
    if num_samples - bounds[-1][1] >= PAPER_REMAINDER_SECONDS * sample_rate:
        bounds.append((num_samples - size, num_samples))
    return bounds


def _even(
    num_samples: int, sample_rate: int, chunk_seconds: float, layout: TokenLayout
) -> Iterator[tuple[int, int]]:
    period = Fraction(math.lcm(layout.ticks_per_unit, layout.ticks_per_frame)) / layout.tick_rate
    if period > Fraction(1, 4):
        period = Fraction(layout.ticks_per_unit) / layout.tick_rate
    step = period * sample_rate
    longest = math.floor(Fraction(chunk_seconds) / period)  # in periods
    count = math.ceil(num_samples / (longest * step))
    each = num_samples / (count * step)
    bounds = [round(math.ceil(number * each) * step) for number in range(count)]
    yield from zip(bounds, [*bounds[1:], num_samples], strict=True)
