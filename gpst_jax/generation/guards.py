"""Guards end an item that went astray: it repeats itself, falls silent for good, or collapses.

Each item is watched on the device, step by step, on its own tokens alone: a guard fires at the same
token whatever else is in the batch.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpst_jax.config import ConfigError

# Why the sampling of a row ended, as the programs count and as results say it.
RUNNING, END, LENGTH, REPETITION, SILENCE, COLLAPSE = range(6)
ENDINGS = ("", "end", "length", "guard:repetition", "guard:silence", "guard:collapse")


@dataclasses.dataclass(frozen=True)
class Guards:
    """What counts as gone astray; 0 switches a guard off.

    Attributes:
        repeat_seconds: the same token, not one of silence, for so long (repetition).
        loop_repeats: a loop of different tokens so many times in a row (repetition).
        longest_loop: tokens of the longest loop that is looked for.
        silence_seconds: nothing but tokens of silence for so long, where the decoder knows them.
        collapse_seconds: the same code in the first codebook, not one of silence, for so long,
            whatever the others are (collapse).
    """

    repeat_seconds: float = 1.0
    loop_repeats: int = 6
    longest_loop: int = 16
    silence_seconds: float = 2.0
    collapse_seconds: float = 1.5

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 0:
                raise ConfigError(f"guards: {field.name} must not be negative")

    def at(self, rate: float, codebooks: int = 1) -> "Thresholds":
        """The same in tokens of a stream with `rate` tokens a second."""
        return Thresholds(
            repeat=round(self.repeat_seconds * rate),
            loop_repeats=self.loop_repeats,
            longest_loop=max(self.longest_loop, 1) if self.loop_repeats else 1,
            silence=round(self.silence_seconds * rate),
            collapse=round(self.collapse_seconds * rate) if codebooks > 1 else 0,
        )


class Thresholds(NamedTuple):
    """Guards of one stream, in tokens; 0: off."""

    repeat: int
    loop_repeats: int
    longest_loop: int
    silence: int
    collapse: int


class Watch(NamedTuple):
    """What is known of the newest tokens of each row."""

    history: jax.Array  # (B, longest loop, depth), the newest token first; -1 before the first
    runs: jax.Array  # (B, longest loop) newest tokens that equal those 1, 2, ... before them
    silent: jax.Array  # (B,) newest tokens that are silent
    same_code: jax.Array  # (B,) newest tokens with the first code of the one before


def watch(thresholds: Thresholds, rows: int, depth: int) -> Watch:
    """The watch over rows without tokens of `depth` ids."""
    loop = thresholds.longest_loop
    return Watch(
        jnp.full((rows, loop, depth), -1, jnp.int32),
        jnp.zeros((rows, loop), jnp.int32),
        jnp.zeros(rows, jnp.int32),
        jnp.zeros(rows, jnp.int32),
    )


def observe(
    thresholds: Thresholds, before: Watch, token: jax.Array, silence: jax.Array | np.ndarray
) -> tuple[Watch, jax.Array]:
    """Takes in the newest token of each row.

    Args:
        thresholds: of the stream.
        before: the watch so far.
        token: (B, depth) ids.
        silence: (V,) bool, whether a first id is one of silence.

    Returns:
        The watch, and the guard that fires for each row, (B,); RUNNING where none does.
    """
    equal = (before.history == token[:, None]).all(axis=-1)
    runs = jnp.where(equal, before.runs + 1, 0)
    is_silent = jnp.asarray(silence)[token[:, 0]]
    silent = jnp.where(is_silent, before.silent + 1, 0)
    same_first = before.history[:, 0, 0] == token[:, 0]
    same_code = jnp.where(same_first & ~is_silent, before.same_code + 1, 0)
    history = jnp.concatenate([token[:, None], before.history[:, :-1]], axis=1)

    fired = jnp.full(len(token), RUNNING, jnp.int32)
    if thresholds.collapse:
        fired = jnp.where(same_code + 1 >= thresholds.collapse, COLLAPSE, fired)
    if thresholds.silence:
        fired = jnp.where(silent >= thresholds.silence, SILENCE, fired)
    repeated = jnp.zeros(len(token), bool)
    if thresholds.repeat:
        repeated = (runs[:, 0] + 1 >= thresholds.repeat) & ~is_silent
    if thresholds.loop_repeats:
        lags = jnp.arange(2, thresholds.longest_loop + 1)
        looped = runs[:, 1:] >= ((thresholds.loop_repeats - 1) * lags)[None]
        # A loop has different tokens: the newest ones are not all the same.
        repeated = repeated | (looped & (runs[:, :1] < lags[None] - 1)).any(axis=1)
    return Watch(history, runs, silent, same_code), jnp.where(repeated, REPETITION, fired)


def silent_ids(ids: np.ndarray | None, size: int) -> np.ndarray:
    """A table (size,) that is true for the given first ids of silence; None: none are known."""
    table = np.zeros(size, bool)
    if ids is not None:
        table[np.asarray(ids, int)] = True
    return table
