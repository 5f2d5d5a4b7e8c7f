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


def mean_difference(
    values: Mapping[str, float], base: Mapping[str, float], *, resamples: int, seed: int
) -> dict[str, Any]:
    """Mean score minus that of the base, over the ids in both."""
    ids = sorted(values.keys() & base.keys())
    if not ids:
        return statistics.not_available("no items in common")
    estimate = statistics.paired_mean_difference(
        [values[id_] for id_ in ids], [base[id_] for id_ in ids], resamples=resamples, seed=seed
    )
    return statistics.row(estimate, len(ids))


def derangement(n: int, seed: int) -> np.ndarray:
    """A seeded permutation of 0..n-1 (n >= 2) without fixed points."""
    order = np.random.default_rng(seed).permutation(n)
    shuffled = np.empty(n, np.int64)
    shuffled[order] = np.roll(order, 1)
    return shuffled
