"""Exact likelihoods of token sequences, in batches of few padded shapes."""

import abc
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import jax
import numpy as np

from data_pipeline.runtime.contents import digest
from gpst_jax.checkpoints.checksums import checksums
from gpst_jax.evaluation.likelihood.scores import Score
from gpst_jax.objectives import losses

Item = TypeVar("Item")
Shape = tuple[int, ...]
Batch = Mapping[str, jax.Array]
# By stream, of each row: summed nll (B,) float32 and the number of predictions (B,) int.
Sums = dict[str, tuple[jax.Array, jax.Array]]

VERSION = 1  # raise it with any change that alters a score: scores of other versions are not kept
_STEP = 128  # TPU kernels take lengths that are multiples of it
_POSITIONS = {"cpu": 4096}  # positions of a batch, by backend
_MORE_POSITIONS = 32_768  # of accelerators
_MOST_ROWS = 64
_LOGITS_BYTES = 64 * 2**20


class Scorer(abc.ABC, Generic[Item]):
    """A model that gives token sequences their likelihoods: those of the training loss.

    The padded shape of a sequence follows from its own length alone, and every batch of a shape has
    the same number of rows: whatever else is scored, the same program runs.

    Attributes:
        streams: names of the streams, as in the metrics of training without `nll_`.
        fingerprint: of the parameters and all that decides what they compute.

    Args:
        params: nested dict of arrays.
        description: JSON values of all else that scores depend on.
    """

    streams: tuple[str, ...]

    def __init__(self, params: Any, description: Mapping[str, Any]):
        self._params = params
        held = {"version": VERSION, "parameters": checksums(params), **description}
        self.fingerprint = digest(json.dumps(held, sort_keys=True).encode())
        self._program = jax.jit(self._sums)

    @abc.abstractmethod
    def digest(self, item: Item) -> str:
        """A digest of a sequence: equal ones have equal scores."""

    @abc.abstractmethod
    def refusal(self, item: Item) -> str | None:
        """Why a sequence cannot be scored; None: it can."""

    @abc.abstractmethod
    def shape(self, item: Item) -> Shape:
        """The padded sizes of a sequence; the first one bounds its positions."""

    @abc.abstractmethod
    def row(self, item: Item | None, shape: Shape) -> dict[str, np.ndarray]:
        """The arrays of one row of a batch; None: a row of padding."""

    @abc.abstractmethod
    def _sums(self, params: Any, batch: Batch) -> Sums:
        """Traced: sums of each row by stream."""

    def score(self, items: Sequence[Item]) -> Iterator[tuple[int, Score]]:
        """Scores sequences, batch by batch.

        Args:
            items: that are not refused.

        Yields:
            The place of a sequence in `items`, and its score; in no particular order.
        """
        by_shape: dict[Shape, list[int]] = {}
        for place, item in enumerate(items):
            by_shape.setdefault(self.shape(item), []).append(place)
        for shape, places in sorted(by_shape.items()):
            rows = _rows(shape)
            for start in range(0, len(places), rows):
                chosen = places[start : start + rows]
                made = [self.row(items[place], shape) for place in chosen]
                made += [self.row(None, shape)] * (rows - len(chosen))
                batch = {name: np.stack([row[name] for row in made]) for name in made[0]}
                sums = jax.device_get(self._program(self._params, batch))
                for row, place in enumerate(chosen):
                    yield place, self._score(sums, row)

    def _score(self, sums: Mapping[str, tuple[np.ndarray, np.ndarray]], row: int) -> Score:
        return Score(
            {name: float(sums[name][0][row]) for name in self.streams},
            {name: int(sums[name][1][row]) for name in self.streams},
        )


def padded(length: int) -> int:
    """The padded size for a length: 1, 2, 3 or 4, 6, 8, 12, 16, ... times 128."""
    step = _STEP
    while length > 4 * step:
        step *= 2
    return max(-(-length // step), 1) * step


def sum_by_row(
    hidden: jax.Array, kernel: jax.Array, targets: jax.Array, mask: jax.Array
) -> jax.Array:
    """Summed nll of each row of `hidden @ kernel`, without logits of full rows in memory.

    Args:
        hidden: (B, L, D).
        kernel: (D, C).
        targets: (B, L) int.
        mask: (B, L) bool, or (B, L, G) for groups.

    Returns:
        (B,) or (B, G) float32.
    """
    chunk_bytes = max(_LOGITS_BYTES // len(hidden), 1)

    def one(hidden: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
        row = (hidden[None], kernel, targets[None], mask[None])
        return losses.chunked_cross_entropy(*row, chunk_bytes=chunk_bytes)[1]

    return jax.vmap(one)(hidden, targets, mask)


def _rows(shape: Shape) -> int:
    most = _POSITIONS.get(jax.default_backend(), _MORE_POSITIONS)
    return min(max(most // shape[0], 1), _MOST_ROWS)
