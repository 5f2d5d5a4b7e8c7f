"""Lloyd's k-means and nearest-centroid search in NumPy: deterministic, in bounded memory."""

from collections.abc import Callable

import numpy as np

_BLOCK = 4096  # points per distance table, (block, clusters) float32
_SEEDING_POINTS = 16_384
_CANDIDATES = 4


def nearest(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Index of the nearest centroid (Euclidean) of every point (n, D): int64 (n,)."""
    half_norms = 0.5 * np.einsum("kd,kd->k", centroids, centroids)
    labels = np.empty(len(points), np.int64)
    for start in range(0, len(points), _BLOCK):
        block = points[start : start + _BLOCK]
        labels[start : start + _BLOCK] = np.argmin(half_norms - block @ centroids.T, axis=1)
    return labels


def fit_kmeans(
    points: np.ndarray,
    num_clusters: int,
    seed: int,
    iterations: int = 20,
    on_iteration: Callable[[int], None] = lambda steps: None,
) -> np.ndarray:
    """Fits k-means, initialised by greedy k-means++ on a sample.

    Empty clusters are re-initialised with the points farthest from their centroids.

    Args:
        points: float32 (n, D).
        num_clusters: K, at most n.
        seed: of the initialisation.
        iterations: of Lloyd's algorithm.
        on_iteration: called with 1 after each iteration, for progress.

    Returns:
        Centroids, float32 (K, D).

    Raises:
        ValueError: fewer points than clusters.
    """
    if len(points) < num_clusters:
        raise ValueError(
            f"{num_clusters} clusters need at least as many points, there are {len(points)}"
        )
    rng = np.random.default_rng(seed)
    centroids = seed_centroids(points, num_clusters, rng)
    for _ in range(iterations):
        labels = nearest(points, centroids)
        counts = np.bincount(labels, minlength=num_clusters)
        order = np.argsort(labels, kind="stable")
        nonempty = np.flatnonzero(counts)
        starts = np.concatenate([[0], np.cumsum(counts[nonempty])[:-1]])
        sums = np.add.reduceat(points[order], starts, axis=0, dtype=np.float64)
        updated = centroids.copy()
        updated[nonempty] = sums / counts[nonempty, None]
        empty = np.flatnonzero(counts == 0)
        if len(empty):
            errors = np.square(points - centroids[labels]).sum(axis=1)
            updated[empty] = points[np.argsort(-errors, kind="stable")[: len(empty)]]
        centroids = updated
        on_iteration(1)
    return centroids


def seed_centroids(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Greedy k-means++ (Arthur and Vassilvitskii 2007) on a sample of the points.

    Each step samples a few candidates in proportion to their squared distance to the chosen points
    and keeps the one that reduces the sum of squared distances most.

    Args:
        points: float32 (n, D), n >= count; at most max(16,384, 2 * count) of them are used.
        count: K.
        rng: source of randomness.

    Returns:
        float32 (K, D), a subset of the points.
    """
    size = min(len(points), max(_SEEDING_POINTS, 2 * count))
    sample = points[np.sort(rng.choice(len(points), size, replace=False))]
    norms = np.einsum("nd,nd->n", sample, sample)
    chosen = [int(rng.integers(size))]
    distances = _distances(sample, norms, chosen)[:, 0]
    while len(chosen) < count:
        total = np.cumsum(distances, dtype=np.float64)
        thresholds = rng.uniform(0, 1, _CANDIDATES) * total[-1]
        candidates = np.minimum(np.searchsorted(total, thresholds, side="right"), size - 1)
        reduced = np.minimum(distances[:, None], _distances(sample, norms, candidates))
        best = int(np.argmin(reduced.sum(axis=0)))
        chosen.append(int(candidates[best]))
        distances = reduced[:, best]
    return sample[chosen].astype(np.float32)


def _distances(points: np.ndarray, norms: np.ndarray, chosen) -> np.ndarray:
    """Squared distances (n, c) of points (n, D) to those of the given indices (c,)."""
    squared = norms[:, None] - 2 * (points @ points[chosen].T) + norms[chosen]
    return np.maximum(squared, 0.0)
