"""Both streams of a recording are trimmed to the same time, or refused."""

import numpy as np
import pytest

from data_pipeline.tokenization.shard import align
from data_pipeline.tokens import TokenLayout

LAYOUT = TokenLayout(num_units=50, num_codebooks=2, codebook_size=32)


@pytest.mark.parametrize(
    ("num_units", "num_frames", "expected"),
    [(100, 150, (100, 150)), (100, 153, (100, 151)), (103, 150, (100, 150)), (1, 1, (1, 1))],
)
def test_streams_are_trimmed_to_within_a_frame(num_units, num_frames, expected) -> None:
    units, codes = align(LAYOUT, np.arange(num_units) % 50, np.ones((2, num_frames), int))
    assert (len(units), codes.shape[1]) == expected
    assert abs(codes.shape[1] - 1.5 * len(units)) <= 1


@pytest.mark.parametrize(
    ("units", "codes", "message"),
    [
        (np.zeros(0, int), np.zeros((2, 0), int), "too short"),
        (np.zeros(100, int), np.zeros((2, 170), int), "disagree by 0.27 s"),
        (np.full(10, 50), np.zeros((2, 15), int), "out of range"),
        (np.zeros(10, int), np.zeros((3, 15), int), "codes must be"),
    ],
)
def test_wrong_streams_are_refused(units, codes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        align(LAYOUT, units, codes)
