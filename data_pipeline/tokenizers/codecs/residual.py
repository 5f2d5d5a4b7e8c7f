"""Residual vector quantisation: the latent of a frame is a sum of codebook vectors."""

import numpy as np


def sum_of_vectors(
    codebooks: np.ndarray, codes: np.ndarray, start: int = 0, stop: int | None = None
) -> np.ndarray:
    """Sum of the vectors of codebooks [start, stop).

    Args:
        codebooks: float32 (Q, N, D).
        codes: integers (Q', T), the first Q' codebooks of each frame, 1 <= Q' <= Q.
        start: first codebook.
        stop: end of the range of codebooks; None is Q'.

    Returns:
        float32 (T, D).

    Raises:
        ValueError: too many codebooks, or codes out of range.
    """
    codes = np.asarray(codes)
    depth, size, width = codebooks.shape
    if codes.ndim != 2 or not 1 <= len(codes) <= depth:
        raise ValueError(f"codes must be (Q', T) with Q' from 1 to {depth}, are {codes.shape}")
    if codes.size and not 0 <= codes.min() <= codes.max() < size:
        raise ValueError(
            f"codes must be from 0 to {size - 1}, are from {codes.min()} to {codes.max()}"
        )
    total = np.zeros((codes.shape[1], width), np.float32)
    for q in range(*slice(start, stop).indices(len(codes))):
        total += codebooks[q][codes[q]]
    return total
