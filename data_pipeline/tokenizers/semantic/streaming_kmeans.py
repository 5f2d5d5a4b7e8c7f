"""Mini-batch k-means for more points than fit in memory: one running mean per cluster.

scikit-learn's MiniBatchKMeans is not used: it comes with the evaluation extra only, its state can
be saved only as a pickle, and its distances cannot be computed on a GPU.
"""

from collections.abc import Callable, Mapping

import numpy as np

from data_pipeline.tokenizers.semantic import kmeans

# A cluster with less than this fraction of the average number of points is re-initialised.
_STARVED = 0.01
_POINTS_BEFORE_MOVING = 4  # per cluster on average, before any is re-initialised


class StreamingKMeans:
    """Mini-batch k-means (Sculley 2010): a centroid is the mean of all points assigned to it.

    The result depends on the points and their order, the seed and the sizes, but not on how the
    points are split over calls of `add`, nor on saving and restoring in between.

    Attributes:
        error: mean squared distance of the points of the last batch to their centroids, before the
            update; None before the first batch.
    """

    def __init__(
        self,
        num_clusters: int,
        seed: int,
        batch_size: int = 10_000,
        nearest: Callable[[np.ndarray, np.ndarray], np.ndarray] = kmeans.nearest,
    ):
        """Starts with no points.

        Args:
            num_clusters: K.
            seed: of the initialisation, and of re-initialised clusters.
            batch_size: points per update.
            nearest: assignment of points to centroids, as `kmeans.nearest`.
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
        """Number of points added."""
        return int(self._counts.sum()) + sum(map(len, self._waiting))

    def add(self, points: np.ndarray) -> None:
        """Adds points, float32 (n, D), and updates the clusters once a batch is complete."""
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
        """Processes the remaining points and returns the centroids, float32 (K, D).

        Raises:
            ValueError: fewer points than clusters.
        """
        pool = np.concatenate(self._waiting) if self._waiting else np.zeros((0, 1), np.float32)
        if self._centroids is None:
            if len(pool) < self.num_clusters:
                raise ValueError(
                    f"{self.num_clusters} clusters need at least as many points, there are "
                    f"{len(pool)}"
                )
            self._start(pool)
        if len(pool):
            self._update(pool)
            self._waiting = []
        assert self._centroids is not None
        return self._centroids.astype(np.float32)

    def state(self) -> dict[str, np.ndarray]:
        """State for `restore`, as named arrays."""
        state = {"counts": self._counts, "batches": np.array(self._batches)}
        if self._waiting:
            state["waiting"] = np.concatenate(self._waiting)
        if self._centroids is not None:
            state["centroids"] = self._centroids
        return state

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Continues from a state that `state` returned."""
        self._counts = state["counts"].copy()
        self._batches = int(state["batches"])
        self._waiting = [state["waiting"]] if "waiting" in state else []
        self._centroids = state["centroids"].copy() if "centroids" in state else None

    def _start(self, pool: np.ndarray) -> None:
        rng = np.random.default_rng(self._seed)
        centroids = kmeans.seed_centroids(pool, self.num_clusters, rng)
        self._centroids = centroids.astype(np.float64)

    def _update(self, batch: np.ndarray) -> None:
        assert self._centroids is not None
        current = self._centroids.astype(np.float32)
        labels = self._nearest(batch, current)
        self.error = float(np.square(batch - current[labels]).sum(axis=1).mean())
        counts = np.bincount(labels, minlength=self.num_clusters)
        order = np.argsort(labels, kind="stable")
        nonempty = np.flatnonzero(counts)
        starts = np.concatenate([[0], np.cumsum(counts[nonempty])[:-1]])
        sums = np.add.reduceat(batch[order], starts, axis=0, dtype=np.float64)
        self._counts += counts
        self._batches += 1
        # Running mean of all points assigned to the cluster so far.
        shift = sums - counts[nonempty, None] * self._centroids[nonempty]
        self._centroids[nonempty] += shift / self._counts[nonempty, None]
        self._move_starved(batch)

    def _move_starved(self, batch: np.ndarray) -> None:
        """Re-initialises clusters with hardly any points at random points of the batch."""
        assert self._centroids is not None
        average = self._counts.sum() / self.num_clusters
        if average < _POINTS_BEFORE_MOVING:
            return
        starved = np.flatnonzero(self._counts < _STARVED * average)[: len(batch)]
        if not len(starved):
            return
        rng = np.random.default_rng((self._seed, self._batches))
        chosen = rng.choice(len(batch), len(starved), replace=False)
        self._centroids[starved] = batch[np.sort(chosen)]
        # A small count: the centroid adapts quickly, and is not re-initialised at once.
        self._counts[starved] = max(1, int(_STARVED * average) + 1)
