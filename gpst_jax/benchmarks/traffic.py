"""Bytes that a frame takes from memory when it is decoded, and the bandwidth that memory has.

Decoding one frame of every row reads the weights once for the whole batch, and the cached keys and
values of each row:

    bytes per frame = itemsize (weights / B + cached values per position x mean positions)

Weights of a local transformer and of its heads count once for every codebook that reads them. They
may stay in the processor's cache between codebooks; then less comes from memory than is counted.
"""

import dataclasses
import math
import threading
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What a frame of a batch reads.

    Attributes:
        weights: weights read per frame of all rows, each as often as it is read.
        cache_per_position: keys and values of a position in all global layers of a row.
        itemsize: bytes of a weight and of a cached value.
    """

    weights: int
    cache_per_position: int
    itemsize: int

    def bytes_per_frame(self, rows: int, positions: float) -> float:
        """Bytes of one frame of one row.

        Args:
            rows: B.
            positions: mean positions in the cache of a row.
        """
        return self.itemsize * (self.weights / rows + self.cache_per_position * positions)


def of_params(params: dict[str, Any], codebooks: int, itemsize: int) -> Traffic:
    """Of GPST: the global layers, Q times the local ones, the projector and Q heads.

    Embeddings, whose rows are looked up, and the head of the semantic units are not read.

    Args:
        params: leaves are arrays, or shapes of arrays.
        codebooks: Q.
        itemsize: bytes of a weight as the loop reads it.
    """
    kernel = params["acoustic_head"]["kernel"]
    heads = size(kernel) * (1 if kernel.ndim == 3 else codebooks)
    weights = size(params["global_net"]["layers"]) + heads + size(params.get("projector", {}))
    weights += codebooks * size(params["local_net"]["layers"])
    depth, _, width = params["global_net"]["layers"]["attn"]["k"]["kernel"].shape
    return Traffic(weights, 2 * depth * width, itemsize)


def size(tree: Any) -> int:
    """Number of weights in nested dictionaries."""
    if isinstance(tree, dict):
        return sum(size(value) for value in tree.values())
    return math.prod(tree.shape)


class HostCopy:
    """Copies a large array within the machine's memory, as STREAM's first kernel does.

    Args:
        threads: that copy equal parts at the same time.
        megabytes: of the array, beyond the size of any cache.

    Attributes:
        moved: bytes read and bytes written by one copy.
    """

    parameters = 0

    def __init__(self, threads: int, megabytes: int = 256):
        source = np.ones(megabytes * 2**20 // 8)
        target = np.zeros_like(source)
        self.moved = 2 * source.nbytes
        pairs = (np.array_split(target, threads), np.array_split(source, threads))
        self._parts = list(zip(*pairs, strict=True))

    def __call__(self) -> float:
        """Copies once."""
        first, *others = self._parts
        workers = [threading.Thread(target=np.copyto, args=part) for part in others]
        for worker in workers:
            worker.start()
        np.copyto(*first)
        for worker in workers:
            worker.join()
        return 0.0

    def peak_bytes(self) -> int | None:
        """Not measured."""
        return None
