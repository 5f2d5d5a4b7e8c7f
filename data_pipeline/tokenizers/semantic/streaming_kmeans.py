"""k-means over more points than memory holds: mini-batches, one running mean per cluster.

scikit-learn's MiniBatchKMeans is not used: it comes with the evaluation extra only, its state can
be kept for a later run only as a pickle, and its distances are not to be had on a GPU.
"""

from collections.abc import Callable, Mapping

import numpy as np

from data_pipeline.tokenizers.semantic import kmeans

# A cluster that holds less than this share of what it should on average moves elsewhere.
_STARVED = 0.01
_PASSES_BEFORE_MOVING = 4  # points per cluster, on average, before any moves


class StreamingKMeans:
    """Mini-batch k-means (Sculley 2010): each cluster is the mean of all points it was given.

    The result depends on the points in their order, the seed and the sizes, not on how the points
    are cut into calls of `add`, nor on `restore` in between.

    Attributes:
        error: mean squared distance of a point of the last batch to its cluster, before the batch
            moved it; None before the first batch.
    """

    def __init__(
        self,
        num_clusters: int,
        seed: int,
        batch_size: int = 10_000,
        nearest: Callable[[np.ndarray, np.ndarray], np.ndarray] = kmeans.nearest,
    ):
        """Starts without points.

        Args:
            num_clusters: K.
            seed: of the start and of clusters that move.
            batch_size: points per update.
            nearest: as `kmeans.nearest`.
        """
        self.num_clusters = num_clusters
        self.error: float | None = None
        self._seed = seed
        self._batch_size = batch_size
        self._nearest = nearest
        self._first = max(batch_size, 2 * num_clusters)
        self._waiting: list[np.ndarray] = []
        self._centroids: np.ndarray | None = None  # (K, D) float64
        self._counts = np.zeros(num_clusters, np.int64)
        self._batches = 0

    @property
    def points(self) -> int:
        """Points that were added."""
        return int(self._counts.sum()) + sum(map(len, self._waiting))

    def add(self, points: np.ndarray) -> None:
        """Takes points, float32 (n, D), and updates once enough for a batch are there."""
        self._waiting.append(np.ascontiguousarray(points, np.float32))
        count = sum(map(len, self._waiting))
        needed = self._first if self._centroids is None else self._batch_size
        if count < needed:
            return
        pool = np.concatenate(self._waiting)
        if self._centroids is None:
            self._start(pool[: self._first])
        end = len(pool) - len(pool) % self._batch_size
        for start in range(0, end, self._batch_size):
            self._update(pool[start : start + self._batch_size])
        self._waiting = [pool[end:].copy()]

    def finish(self) -> np.ndarray:
        """Takes in the points that are left and returns the clusters, float32 (K, D).

        Raises:
            ValueError: fewer points than clusters.
        """
        pool = np.concatenate(self._waiting) if self._waiting else np.zeros((0, 1), np.float32)
        if self._centroids is None:
            if len(pool) < self.num_clusters:
                raise ValueError(
                    f"{self.num_clusters} clusters need as many points, there are {len(pool)}"
                )
            self._start(pool)
        if len(pool):
            self._update(pool)
            self._waiting = []
        assert self._centroids is not None
        return self._centroids.astype(np.float32)

    def state(self) -> dict[str, np.ndarray]:
        """All that `restore` needs, as named arrays."""
        found = {"counts": self._counts, "batches": np.array(self._batches)}
        if self._waiting:
            found["waiting"] = np.concatenate(self._waiting)
        if self._centroids is not None:
            found["centroids"] = self._centroids
        return found

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Goes on from what `state` returned."""
        self._counts = state["counts"].copy()
        self._batches = int(state["batches"])
        self._waiting = [state["waiting"]] if "waiting" in state else []
        self._centroids = state["centroids"].copy() if "centroids" in state else None

    def _start(self, pool: np.ndarray) -> None:
        rng = np.random.default_rng(self._seed)
        found = kmeans.seed_centroids(pool, self.num_clusters, rng)
        self._centroids = found.astype(np.float64)

    def _update(self, batch: np.ndarray) -> None:
        assert self._centroids is not None
        current = self._centroids.astype(np.float32)
        labels = self._nearest(batch, current)
        self.error = float(np.square(batch - current[labels]).sum(axis=1).mean())
        counts = np.bincount(labels, minlength=self.num_clusters)
        order = np.argsort(labels, kind="stable")
        filled = np.flatnonzero(counts)
        starts = np.concatenate([[0], np.cumsum(counts[filled])[:-1]])
        sums = np.add.reduceat(batch[order], starts, axis=0, dtype=np.float64)
        self._counts += counts
        self._batches += 1
        # The mean of everything that the cluster was ever given.
        moved = sums - counts[filled, None] * self._centroids[filled]
        self._centroids[filled] += moved / self._counts[filled, None]
        self._move_starved(batch)

    def _move_starved(self, batch: np.ndarray) -> None:
        """Puts clusters that are hardly ever nearest on points of the batch."""
        assert self._centroids is not None
        average = self._counts.sum() / self.num_clusters
        if average < _PASSES_BEFORE_MOVING:
            return
        starved = np.flatnonzero(self._counts < _STARVED * average)[: len(batch)]
        if not len(starved):
            return
        rng = np.random.default_rng((self._seed, self._batches))
        chosen = rng.choice(len(batch), len(starved), replace=False)
        self._centroids[starved] = batch[np.sort(chosen)]
        # As if given few points: it follows its new surroundings, and is not starved at once.
        self._counts[starved] = max(1, int(_STARVED * average) + 1)
