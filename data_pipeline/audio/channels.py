"""Channels of a recording that cancel each other when they are averaged."""

import numpy as np

# Correlation of two channels below which one is the other with its sign turned.
_OPPOSITE = -0.9
# Energy of the sum of all channels over the sum of their energies: 1 if they are independent. Two
# channels of opposite sign, one much louder than the other, leave most of it.
_CANCELLED_OF_TWO = 0.5
_CANCELLED_OF_MANY = 0.1


class Channels:
    """Second moments of a multichannel signal, block by block."""

    def __init__(self, number: int):
        self._count = 0
        self._sums = np.zeros(number)
        self._products = np.zeros((number, number))

    def add(self, block: np.ndarray) -> None:
        """Adds samples (N, C)."""
        with np.errstate(all="ignore"):
            exact = block.astype(np.float64)
            self._count += len(block)
            self._sums += exact.sum(axis=0)
            self._products += exact.T @ exact

    def to_use(self) -> int | None:
        """The loudest channel if the mean of all would cancel them; else None."""
        if self._count == 0 or len(self._sums) < 2:
            return None
        with np.errstate(all="ignore"):
            means = self._sums / self._count
            covariance = self._products / self._count - np.outer(means, means)
            energy = np.diag(covariance)
            left = _CANCELLED_OF_TWO if len(energy) == 2 else _CANCELLED_OF_MANY
            cancelled = energy.sum() > 0 and covariance.sum() < left * energy.sum()
            if len(energy) == 2:
                cancelled &= covariance[0, 1] < _OPPOSITE * np.sqrt(energy.prod())
        return int(energy.argmax()) if cancelled else None
