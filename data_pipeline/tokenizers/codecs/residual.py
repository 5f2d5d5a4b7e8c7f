"""Residual vector quantisation: the latent of a frame is a sum of codebook vectors."""

from collections.abc import Sequence

import numpy as np

_BLOCK = 512  # frames per distance table of the beam search, (block, beam, N) float32
_RIDGE = 1e-3  # penalty of a smoother's deviation from its prior, per frame


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


def beam_search(latents: np.ndarray, codebooks: np.ndarray, beam: int) -> np.ndarray:
    """Codes whose vectors sum close to each latent; keeps the best `beam` prefixes per codebook.

    A beam of 1 is greedy. Frames are searched independently of each other.

    Args:
        latents: float32 (T, D).
        codebooks: float32 (Q, N, D).
        beam: prefixes kept.

    Returns:
        uint16 (Q, T).
    """
    codes = np.empty((len(codebooks), len(latents)), np.uint16)
    half_norms = 0.5 * np.einsum("qnd,qnd->qn", codebooks, codebooks)
    for start in range(0, len(latents), _BLOCK):
        block = latents[start : start + _BLOCK]
        codes[:, start : start + _BLOCK] = _search_block(block, codebooks, half_norms, beam)
    return codes


def _search_block(
    latents: np.ndarray, codebooks: np.ndarray, half_norms: np.ndarray, beam: int
) -> np.ndarray:
    frames, width = latents.shape
    size = codebooks.shape[1]
    rows = np.arange(frames)[:, None]
    residuals = latents[:, None, :]
    costs = np.zeros((frames, 1), np.float32)  # half the squared residual, up to a constant
    paths = np.empty((frames, 1, 0), np.uint16)
    for codebook, norms in zip(codebooks, half_norms, strict=True):
        products = residuals.reshape(-1, width) @ codebook.T
        table = costs[:, :, None] + norms - products.reshape(frames, -1, size)
        table = table.reshape(frames, -1)
        kept = _smallest(table, beam)
        parents, chosen = kept // size, kept % size
        costs = table[rows, kept]
        residuals = residuals[rows, parents] - codebook[chosen]
        paths = np.concatenate([paths[rows, parents], chosen[..., None].astype(np.uint16)], axis=2)
    return paths[:, 0].T


def _smallest(table: np.ndarray, count: int) -> np.ndarray:
    """Indices of the smallest values of each row, in order: (rows, columns) -> (rows, count)."""
    if count == 1:
        return table.argmin(axis=1)[:, None]
    count = min(count, table.shape[1])
    found = np.argpartition(table, count - 1, axis=1)[:, :count]
    order = np.argsort(np.take_along_axis(table, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)


def with_neighbours(latents: np.ndarray) -> np.ndarray:
    """Concatenates each frame with its two neighbours, edges repeated: (T, D) -> (T, 3 * D)."""
    padded = np.pad(latents, ((1, 1), (0, 0)), mode="edge")
    return np.concatenate([padded[:-2], latents, padded[2:]], axis=1)


def fit_smoother(
    quantised: Sequence[np.ndarray], target: np.ndarray, prior: np.ndarray
) -> np.ndarray:
    """Ridge regression of targets on the quantised neighbourhood of their frames.

    Args:
        quantised: latents (T, D) of each utterance.
        target: (sum of T, P), the targets of all utterances.
        prior: (D, P), the map of the frame alone towards which the fit is regularised, so that it
            is well-defined for any amount of audio.

    Returns:
        float32 (3 * D, P), applied to `with_neighbours`.
    """
    width, outputs = prior.shape
    penalty = _RIDGE * len(target)
    gram = penalty * np.eye(3 * width)
    product = np.zeros((3 * width, outputs))
    product[width : 2 * width] = penalty * prior
    start = 0
    for part in quantised:
        inputs = with_neighbours(part)
        gram += inputs.T @ inputs
        product += inputs.T @ target[start : start + len(part)]
        start += len(part)
    return np.linalg.solve(gram, product).astype(np.float32)
