"""Lloyd's k-means and nearest-centroid search in NumPy: deterministic, bounded in memory."""

from collections.abc import Callable

import numpy as np

_BLOCK = 4096  # points per distance table, (block, clusters) float32
_SEEDING_POINTS = 16_384


def nearest(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Index of the nearest centroid (Euclidean) of points (n, D): int64 (n,)."""
    half_norms = 0.5 * np.einsum("kd,kd->k", centroids, centroids)
    found = np.empty(len(points), np.int64)
    for start in range(0, len(points), _BLOCK):
        block = points[start : start + _BLOCK]
        found[start : start + _BLOCK] = np.argmin(half_norms - block @ centroids.T, axis=1)
    return found


def fit_kmeans(
    points: np.ndarray,
    num_clusters: int,
    seed: int,
    iterations: int = 20,
    on_iteration: Callable[[int], None] = lambda steps: None,
) -> np.ndarray:
    """Centroids of k-means, started by k-means++ on a sample.

    Clusters that lose all their points restart at the points that lie farthest from their own
    centroid.

    Args:
        points: float32 (n, D).
        num_clusters: K, at most n.
        seed: of the start.
        iterations: of Lloyd's algorithm.
        on_iteration: called with 1 after each, for progress.

    Returns:
        float32 (K, D).

    Raises:
        ValueError: fewer points than clusters.
    """
    if len(points) < num_clusters:
        raise ValueError(f"{num_clusters} clusters need as many points, there are {len(points)}")
    rng = np.random.default_rng(seed)
    centroids = _seed_centroids(points, num_clusters, rng)
    for _ in range(iterations):
        labels = nearest(points, centroids)
        counts = np.bincount(labels, minlength=num_clusters)
        order = np.argsort(labels, kind="stable")
        filled = np.flatnonzero(counts)
        starts = np.concatenate([[0], np.cumsum(counts[filled])[:-1]])
        sums = np.add.reduceat(points[order], starts, axis=0, dtype=np.float64)
        updated = centroids.copy()
        updated[filled] = sums / counts[filled, None]
        empty = np.flatnonzero(counts == 0)
        if len(empty):
            errors = np.square(points - centroids[labels]).sum(axis=1)
            updated[empty] = points[np.argsort(-errors, kind="stable")[: len(empty)]]
        centroids = updated
        on_iteration(1)
    return centroids


def _seed_centroids(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++ (Arthur and Vassilvitskii 2007) on at most 16,384 of the points."""
    size = min(len(points), max(_SEEDING_POINTS, 2 * count))
    sample = points[np.sort(rng.choice(len(points), size, replace=False))]
    norms = np.einsum("nd,nd->n", sample, sample)
    chosen = [int(rng.integers(size))]
    distances = np.full(size, np.inf, np.float64)
    while len(chosen) < count:
        last = sample[chosen[-1]]
        latest = norms - 2 * (sample @ last) + last @ last
        distances = np.minimum(distances, np.maximum(latest, 0.0))
        total = np.cumsum(distances)
        if total[-1] <= 0:  # fewer distinct points than clusters
            chosen.append(int(rng.integers(size)))
        else:
            pick = int(np.searchsorted(total, rng.uniform(0, total[-1]), side="right"))
            chosen.append(min(pick, size - 1))
    return sample[chosen].astype(np.float32)
