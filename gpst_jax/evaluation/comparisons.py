"""Which conditions are compared with which, and comparisons that every kind of metric may use."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpst_jax.evaluation.metrics import statistics
from gpst_jax.samples.manifest import SENTENCES, UNSEEN

CEILINGS = ("recording", "codec")

# (condition, base): a difference is the condition's score minus that of its base.
COMPARED = (
    ("codec", "recording"),
    ("semantic_to_acoustic", "codec"),
    ("speaker_transfer", "codec"),
    ("tts", "codec"),
    ("voice_conversion", "codec"),
)


def compared_conditions(names: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of COMPARED, with each suffix or none, of which both conditions exist."""
    suffixes = ("", SENTENCES, UNSEEN)
    candidates = [(a + suffix, b + suffix) for suffix in suffixes for a, b in COMPARED]
    return [(a, b) for a, b in candidates if a in names and b in names]


def is_ceiling(condition: str) -> bool:
    """Whether a condition is an upper bound of the others."""
    return condition.removesuffix(UNSEEN).removesuffix(SENTENCES) in CEILINGS


def paired_difference(
    pairs: Mapping[str, tuple[float, float, float, float]],
    *,
    speakers: Mapping[str, str],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """A ratio of sums minus that of the base, over the same items, with interval and p-value.

    Args:
        pairs: of each item, by id: numerator and denominator, and those of the base.
        speakers: of the items, by id; five or more are the units of interval and p-value.
        resamples: of the bootstrap and of the permutation.
        seed: of both.
    """
    usable = {id_: pair for id_, pair in pairs.items() if pair[1] and pair[3]}
    if not usable:
        return statistics.not_available("no items in common")
    estimate = statistics.paired_ratio_difference(
        *zip(*usable.values(), strict=True),
        clusters=statistics.usable([speakers.get(id_, "") for id_ in usable]),
        resamples=resamples,
        seed=seed,
    )
    return statistics.row(estimate, len(usable))


def derangement(n: int, seed: int) -> np.ndarray:
    """A seeded permutation of 0..n-1 (n >= 2) without fixed points."""
    order = np.random.default_rng(seed).permutation(n)
    shuffled = np.empty(n, np.int64)
    shuffled[order] = np.roll(order, 1)
    return shuffled
