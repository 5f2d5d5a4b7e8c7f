"""Packing segments into rows under two budgets: first-fit decreasing over classes of equal size.

A segment's size is the larger of its fractions of the two budgets, so that sizes add up in one
dimension. There are few distinct sizes (at most the longest segment's positions and frames), so a
pattern of sizes that fills one row fills many: the Python loop is over patterns, not segments.
"""

import bisect
from collections.abc import Iterator

import numpy as np


def pack(
    positions: np.ndarray,
    frames: np.ndarray,
    sequence_length: int,
    frame_budget: int,
    order: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Assigns every segment to one row.

    Args:
        positions: (G,) positions of each segment, at most `sequence_length`; G >= 1.
        frames: (G,) predicted frames of each segment, at most `frame_budget`.
        sequence_length: positions of a row.
        frame_budget: predicted frames of a row.
        order: (G,) permutation: the order in which segments of equal size are used.

    Returns:
        Segment numbers (G,) int32 row after row, and offsets (rows + 1,) int64 of the rows.
    """
    sizes = np.maximum(positions * frame_budget, frames * sequence_length).astype(np.int64)[order]
    if sizes.max() > sequence_length * frame_budget:
        raise ValueError("a segment exceeds the budget of a row")
    by_size = np.argsort(sizes, kind="stable")
    queue, sizes = order[by_size].astype(np.int32), sizes[by_size]
    used = np.flatnonzero(np.diff(sizes, prepend=-1))  # first unused segment of each class
    counts = np.diff(np.append(used, len(sizes)))

    blocks, offsets, filled = [], [np.zeros(1, np.int64)], 0
    patterns = _patterns(sizes[used].tolist(), counts.tolist(), sequence_length * frame_budget)
    for pattern, repeats in patterns:
        columns = []
        for number, copies in pattern:
            taken = queue[used[number] : used[number] + copies * repeats]
            used[number] += copies * repeats
            columns.append(taken.reshape(repeats, copies))
        block = np.concatenate(columns, axis=1)
        blocks.append(block.ravel())
        offsets.append(filled + block.shape[1] * np.arange(1, repeats + 1))
        filled += block.size
    return np.concatenate(blocks), np.concatenate(offsets)


def reorder_rows(
    members: np.ndarray, starts: np.ndarray, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Puts rows in another order: (members, starts) as `pack` returns them, `order` (rows,)."""
    counts = np.diff(starts)[order]
    moved = np.concatenate([[0], np.cumsum(counts)])
    index = np.arange(len(members)) + np.repeat(starts[:-1][order] - moved[:-1], counts)
    return members[index], moved


def _patterns(
    sizes: list[int], counts: list[int], capacity: int
) -> Iterator[tuple[list[tuple[int, int]], int]]:
    """Fills rows greedily with the largest sizes that still fit.

    Args:
        sizes: one per class, ascending, at most `capacity`.
        counts: segments of each class.
        capacity: of a row.

    Yields:
        The (class, copies) of one row, and how many rows use this pattern. Each pattern uses up a
        class or leaves too few of it for another such row, so there are few patterns.
    """
    sizes, left, numbers = list(sizes), list(counts), list(range(len(sizes)))
    while sizes:
        room, top, pattern = capacity, len(sizes), []
        while top := bisect.bisect_right(sizes, room, 0, top):
            top -= 1
            copies = min(room // sizes[top], left[top])
            room -= copies * sizes[top]
            pattern.append((top, copies))
        repeats = min(left[place] // copies for place, copies in pattern)
        yield [(numbers[place], copies) for place, copies in pattern], repeats
        for place, copies in pattern:  # largest first, so that deletion keeps indices valid
            left[place] -= copies * repeats
            if not left[place]:
                del sizes[place], left[place], numbers[place]
