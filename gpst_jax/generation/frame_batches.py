"""Requests to the samplers of the perceptual stage, and the padded batches that they run in.

A row is the frames of the prompt, those of the target, then padding. Lengths are bucketed, so that
few programs are compiled.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.tokens import TokenLayout

_BUCKET = 64  # padded lengths are multiples


@dataclasses.dataclass(frozen=True)
class FrameRequest:
    """One item to sample.

    Attributes:
        units: (T,) semantic units, one per frame, not de-duplicated.
        prompt_codes: (Q, Tp) codes of a prompt, or None.
        prompt_units: (Tp,) units of the prompt; None where they are its first codebook.
        item: index of the item's random stream.
    """

    units: np.ndarray
    prompt_codes: np.ndarray | None = None
    prompt_units: np.ndarray | None = None
    item: int = 0


@dataclasses.dataclass(frozen=True)
class FrameBatch:
    """Padded rows; `indices` are those of its requests, further rows are empty."""

    indices: list[int]
    units: np.ndarray  # (B, T) int32
    codes: np.ndarray  # (B, T, Q) int32, zeros after the prompt
    prompts: np.ndarray  # (B,) int32 frames
    lengths: np.ndarray  # (B,) int32 frames of prompt and target
    items: np.ndarray  # (B,) int32

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """Arguments of a jitted sampler: units, codes, prompts, lengths, items."""
        return self.units, self.codes, self.prompts, self.lengths, self.items


def batches(
    requests: Sequence[FrameRequest], layout: TokenLayout, batch_size: int
) -> Iterator[FrameBatch]:
    """Batches of requests of similar length, shortest first.

    Raises:
        ValueError: no frames, units or codes out of range, or a prompt whose units and codes differ
            in length; the message names the request.
    """
    rows = [_row(index, request, layout) for index, request in enumerate(requests)]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    size = min(batch_size, len(rows))
    for start in range(0, len(rows), size):
        chosen = order[start : start + size]
        longest = max(len(rows[i][0]) for i in chosen)
        shape = (size, -(-longest // _BUCKET) * _BUCKET)
        units, codes = np.zeros(shape, np.int32), np.zeros((*shape, layout.num_codebooks), np.int32)
        prompts, lengths, items = (np.zeros(size, np.int32) for _ in range(3))
        for row, index in enumerate(chosen):
            row_units, prompt_codes = rows[index]
            units[row, : len(row_units)] = row_units
            codes[row, : len(prompt_codes)] = prompt_codes
            prompts[row], lengths[row] = len(prompt_codes), len(row_units)
            items[row] = requests[index].item
        yield FrameBatch(chosen, units, codes, prompts, lengths, items)


def sample_targets(
    run: Callable[[FrameBatch], np.ndarray],
    requests: Sequence[FrameRequest],
    layout: TokenLayout,
    batch_size: int,
    on_progress: Callable[[int], None] | None = None,
) -> list[np.ndarray]:
    """Runs all requests in batches; returns the targets, (T, ...) of each request.

    Args:
        run: maps a batch of B rows to (B, T, ...), prompts and padding included.
        requests: the items.
        layout: token layout of their units and codes.
        batch_size: items per batch.
        on_progress: called with the number of items after each batch.

    Raises:
        ValueError: see `batches`.
    """
    targets: list[np.ndarray] = [np.zeros(0)] * len(requests)
    for batch in batches(requests, layout, batch_size):
        rows = run(batch)
        for row, index in enumerate(batch.indices):
            targets[index] = rows[row, batch.prompts[row] : batch.lengths[row]]
        if on_progress is not None:
            on_progress(len(batch.indices))
    return targets


def frame_keys(seed: jax.Array, items: jax.Array, length: int) -> jax.Array:
    """A random key per frame of each item, (B, T), independent of batch and padding."""
    item_keys = jax.vmap(lambda item: jax.random.fold_in(jax.random.key(seed), item))(items)
    return fold_each(item_keys[:, None], jnp.arange(length)[None])


def fold_each(keys: jax.Array, data: jax.Array) -> jax.Array:
    """Folds integers into keys, elementwise with broadcasting."""
    shape = jnp.broadcast_shapes(keys.shape, data.shape)
    keys, data = jnp.broadcast_to(keys, shape), jnp.broadcast_to(data, shape)
    return jax.vmap(jax.random.fold_in)(keys.reshape(-1), data.reshape(-1)).reshape(shape)


def _row(index: int, request: FrameRequest, layout: TokenLayout) -> tuple[np.ndarray, np.ndarray]:
    """Units (Tp + T,) and prompt codes (Tp, Q) of a request."""
    units, codes = np.asarray(request.units), request.prompt_codes
    if codes is None:
        codes = np.zeros((layout.num_codebooks, 0), np.int32)
    codes = np.asarray(codes)
    if units.ndim != 1 or not len(units):
        raise ValueError(f"request {index}: units must be (T,) with T > 0, got {units.shape}")
    if codes.ndim != 2 or len(codes) != layout.num_codebooks:
        raise ValueError(
            f"request {index}: prompt codes must be ({layout.num_codebooks}, Tp), got {codes.shape}"
        )
    given = request.prompt_units
    prompt_units = codes[0] if given is None else np.asarray(given)
    if len(prompt_units) != codes.shape[1]:
        raise ValueError(
            f"request {index}: the prompt has {len(prompt_units)} units and {codes.shape[1]} frames"
        )
    units = np.concatenate([prompt_units, units])
    for name, values, limit in (
        ("units", units, layout.num_units),
        ("codes", codes, layout.codebook_size),
    ):
        if values.size and not 0 <= values.min() <= values.max() < limit:
            raise ValueError(
                f"request {index}: {name} from {values.min()} to {values.max()}, allowed are 0 to "
                f"{limit - 1}"
            )
    return units, codes.T
