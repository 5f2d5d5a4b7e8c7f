"""Cutting lines of records into segments of bounded length, vectorised over lines in NumPy.

A line is a run of consecutive records that may share a segment. Each step cuts the next segment off
every remaining line, so there are as many steps as the longest line has segments.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Segments:
    """Segments of ordered records: places `first` to `last` of `order`, both included.

    Attributes:
        order: (R,) record numbers, line after line.
        first: (G,) place of the first record of each segment.
        last: (G,) place of its last record.
        start: (G,) first unit that it takes of its first record.
        stop: (G,) end (exclusive) of the units that it takes of its last record.
    """

    order: np.ndarray
    first: np.ndarray
    last: np.ndarray
    start: np.ndarray
    stop: np.ndarray

    def __len__(self) -> int:
        """Number of segments G."""
        return len(self.first)


def join_pieces(
    order: np.ndarray,
    units: np.ndarray,
    durations: np.ndarray,
    line_starts: np.ndarray,
    *,
    remainder_first: np.ndarray,
    crop: int,
    gap: int,
    ticks_per_unit: int,
    grid: int,
    min_units: int,
) -> Segments:
    """Cuts lines anywhere, so that every unit lies in exactly one segment.

    A segment is as long as `crop` allows. Cuts fall on multiples of `grid` units of a record and
    leave no piece below `min_units`; where that is impossible, the segment ends before the record.

    Args:
        order: (R,) record numbers.
        units: (R,) numbers of their units.
        durations: (R,) int64, in ticks.
        line_starts: (N,) places at which lines begin.
        remainder_first: (N,) bool, whether a line's short segment is its first or its last.
        crop: longest segment in ticks; at least 2 * (min_units + grid) units.
        gap: ticks of silence between two records of a segment.
        ticks_per_unit: duration of a unit.
        grid: cuts fall on multiples of this many units.
        min_units: shortest piece that a cut may leave.
    """
    # Global time: a record begins at starts[place], and the silence after it belongs to it.
    ends = np.cumsum(durations + gap) - gap
    starts = ends - durations
    places = np.asarray(line_starts, np.int64)
    last_places = np.append(places[1:], len(order)) - 1
    line_ends = ends[last_places]

    # The remainder of a line is one segment, first or last: split in two, each half would leave a
    # row of one segment badly filled. Cuts fall up to a grid step early, hence the margin.
    length = line_ends - starts[places]
    margin = length // crop * grid * ticks_per_unit
    smallest = 2 * (min_units + grid) * ticks_per_unit
    remainder = np.clip(length % crop + margin, smallest, crop)
    limit = np.where((length > crop) & remainder_first, remainder, crop)

    offsets = np.zeros(len(places), np.int64)
    now = starts[places]
    cuts: list[tuple[np.ndarray, ...]] = []
    while len(places):
        target = now + limit
        # A target past the end of its line: this segment is the line's last.
        final = target >= line_ends
        place = np.searchsorted(starts, target, side="right") - 1
        place = np.where(final, last_places, place)
        inside = target - starts[place]
        # A segment that ends with a record leaves out the silence after it.
        whole = final | (inside >= durations[place])
        same = place == places
        cut = np.minimum(inside // ticks_per_unit, units[place] - min_units) // grid * grid
        splits = ~whole & (cut - np.where(same, offsets, 0) >= min_units)
        last = np.where(whole | splits, place, place - 1)
        stop = np.where(splits, cut, units[last])
        if (last < places).any():
            raise AssertionError("a record longer than the crop could not be cut")
        cuts.append((places, last, offsets, stop))

        remaining = ~final
        places = np.where(splits, place, last + 1)[remaining]
        offsets = np.where(splits, cut, 0)[remaining]
        now = starts[places] + offsets * ticks_per_unit
        last_places, line_ends = last_places[remaining], line_ends[remaining]
        limit = np.full(len(places), crop)
    return _collect(order, cuts)


def join_whole(
    order: np.ndarray,
    units: np.ndarray,
    line_starts: np.ndarray,
    *,
    measures: Sequence[tuple[np.ndarray, int, int]],
) -> Segments:
    """Groups whole records along lines; each segment takes as many as all budgets allow.

    Args:
        order: (R,) record numbers.
        units: (R,) numbers of their units.
        line_starts: (N,) places at which lines begin.
        measures: for each budget (amounts (R,) int64, amount of the silence between two records,
            budget); no single record exceeds a budget.
    """
    places = np.asarray(line_starts, np.int64)
    last_places = np.append(places[1:], len(order)) - 1
    sums = []
    for amounts, gap, budget in measures:
        ends = np.cumsum(amounts + gap) - gap
        sums.append((ends, ends - amounts, budget))
    cuts: list[tuple[np.ndarray, ...]] = []
    while len(places):
        last = last_places
        for ends, starts, budget in sums:
            fits = np.searchsorted(ends, starts[places] + budget, side="right") - 1
            last = np.minimum(last, fits)
        if (last < places).any():
            raise AssertionError("a record exceeds a budget")
        cuts.append((places, last, np.zeros_like(places), units[last]))
        remaining = last < last_places
        places, last_places = last[remaining] + 1, last_places[remaining]
    return _collect(order, cuts)


def _collect(order: np.ndarray, cuts: list[tuple[np.ndarray, ...]]) -> Segments:
    """The segments of all steps in line order, int32."""
    first, last, start, stop = (
        np.concatenate(column).astype(np.int32) for column in zip(*cuts, strict=True)
    )
    sequence = np.argsort((first.astype(np.int64) << 32) | start, kind="stable")
    fields = (column[sequence] for column in (first, last, start, stop))
    return Segments(order.astype(np.int32), *fields)
