"""The frozen items of the task `demo`: recordings that `make demo` synthesises, by their ids.

They are what `samples.items.ItemSet` chose with seed 0 of 480 held-out recordings on 2026-11-29:
ten digit strings and two sentences of each of ten training voices, and thirty digit strings of each
of two unseen ones. The corpus is the same wherever it is made.
"""

from collections.abc import Mapping

_VALID = {
    "announcer": (6, 11, 12, 14, 16, 18, 25, 27, 32, 33),
    "benjamin": (3, 10, 11, 19, 21, 25, 28, 31, 32, 34),
    "caleb": (2, 10, 13, 14, 16, 21, 25, 30, 31, 32),
    "edward": (0, 3, 10, 13, 14, 16, 24, 28, 29, 33),
    "f2": (0, 2, 3, 6, 7, 9, 14, 19, 30, 32),
    "f5": (0, 1, 3, 11, 12, 16, 20, 23, 30, 32),
    "klatt2": (3, 7, 9, 11, 12, 13, 14, 16, 23, 33),
    "klatt4": (1, 2, 3, 6, 9, 10, 14, 18, 28, 31),
    "m6": (2, 3, 6, 9, 11, 13, 19, 23, 29, 33),
    "michel": (0, 1, 5, 9, 13, 14, 15, 24, 27, 30),
}
_SENTENCES = {
    "announcer": (8, 26), "benjamin": (17, 35), "caleb": (8, 17), "edward": (17, 35),
    "f2": (17, 35), "f5": (8, 17), "klatt2": (8, 17), "klatt4": (26, 35), "m6": (8, 17),
    "michel": (26, 35),
}  # fmt: skip
_UNSEEN = {
    "f3": (
        0, 4, 7, 11, 14, 15, 18, 19, 20, 21, 23, 24, 27, 28, 30, 31, 34, 37, 40, 41, 42, 43, 46, 49,
        51, 52, 54, 55, 57, 58,
    ),
    "klatt3": (
        0, 1, 2, 3, 4, 6, 10, 11, 14, 15, 16, 19, 20, 33, 35, 36, 37, 38, 39, 40, 41, 43, 44, 46,
        48, 52, 53, 54, 56, 57,
    ),
}  # fmt: skip


def _ids(split: str, numbers: Mapping[str, tuple[int, ...]]) -> frozenset[str]:
    return frozenset(
        f"{split}-{voice}-{number:04d}" for voice, its in numbers.items() for number in its
    )


VALID, SENTENCES = _ids("valid", _VALID), _ids("valid", _SENTENCES)
UNSEEN = _ids("unseen", _UNSEEN)
