"""Codebook patterns: in which order, and how many at once, a model predicts the codes of a frame.

    hierarchical   a local transformer per frame, one code after another (GPST, arXiv 2406.00976)
    flat           every code is a position of the backbone (AudioLM, arXiv 2209.03143)
    delay          codebook q is q frames late; Q heads (MusicGen, arXiv 2306.05284)
    parallel       the codes of a frame at once, independent given the frames before; Q heads

Data are the same for all: rows of units, then frames, "interleaved" in `loading.batches`. An
`Arrangement` lays the codes of such a row out on the line of positions that the backbone reads.
"""

from data_pipeline.tokens import TokenLayout
from gpst_jax.models.patterns.delay import Delay
from gpst_jax.models.patterns.flat import Flat
from gpst_jax.models.patterns.line import Arrangement, Line

__all__ = ["Arrangement", "Line", "arrangement", "seconds_in"]

_ARRANGEMENTS = {
    "hierarchical": Arrangement(),
    "parallel": Arrangement(),
    "flat": Flat(),
    "delay": Delay(),
}


def arrangement(pattern: str) -> Arrangement:
    """How a pattern, `GPSTConfig.pattern`, lays codes out."""
    return _ARRANGEMENTS[pattern]


def seconds_in(pattern: str, positions: int, layout: TokenLayout, frame_rate: float) -> float:
    """Seconds of speech whose units and frames fit a table of positions.

    Args:
        pattern: of `GPSTConfig`.
        positions: rows of the table.
        layout: of the tokens.
        frame_rate: frames per second at most, where a model ends the speech itself.
    """
    depth, arranged = layout.num_codebooks, arrangement(pattern)
    start = 1 + arranged.positions(1, depth)  # BOS_s, and the end frame from BOS_a on
    per_frame = arranged.positions(2, depth) - arranged.positions(1, depth)
    return (positions - start) / (layout.unit_rate + per_frame * frame_rate)
