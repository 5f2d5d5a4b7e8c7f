"""Sampling codes with SoundStorm: the first level iteratively, every other level in one pass.

The iterations are those of MaskGIT (arXiv 2202.04200): all masked codes are sampled, the most
confident ones are kept, the others are masked again, fewer in each iteration. Known codes, such as
those of the prompt, never change.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.tokens import TokenLayout
from gpst_jax.config import ConfigError, SoundStormConfig
from gpst_jax.generation.frame_batches import (
    FrameBatch,
    FrameRequest,
    fold_each,
    frame_keys,
    sample_targets,
)
from gpst_jax.models import soundstorm


@dataclasses.dataclass(frozen=True)
class SoundStormSettings:
    """How the first level is sampled; all others are greedy.

    Attributes:
        steps: iterations; 1 samples all codes in parallel.
        temperature: of the first iteration; it decreases linearly towards 0. 0 is greedy.
        top_share: fraction of the classes, the most probable, to sample from.
    """

    steps: int = 8
    temperature: float = 1.0
    top_share: float = 0.3

    def __post_init__(self):
        if self.steps < 1 or self.temperature < 0 or not 0 < self.top_share <= 1:
            raise ConfigError(
                f"soundstorm: steps {self.steps} must be at least 1, temperature "
                f"{self.temperature} not negative, top_share {self.top_share} in (0, 1]"
            )


class SoundStormSampler:
    """Jitted sampling for one model; compiled once per padded shape.

    Args:
        config: the model.
        layout: token layout of its dataset.
        params: its parameters.
        settings: iterations and temperature.
    """

    def __init__(
        self,
        config: SoundStormConfig,
        layout: TokenLayout,
        params: dict,
        settings: SoundStormSettings = SoundStormSettings(),
    ):
        self.config, self.layout, self.params, self.settings = config, layout, params, settings
        self._run = jax.jit(self._sample)

    @property
    def evaluations(self) -> int:
        """Network evaluations per item."""
        return self.settings.steps + soundstorm.num_levels(self.config, self.layout) - 1

    def sample(
        self,
        requests: Sequence[FrameRequest],
        *,
        seed: int = 0,
        batch_size: int = 32,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[np.ndarray]:
        """Samples codes in batches of similar length, shortest first.

        Args:
            requests: the items.
            seed: fixes the samples, together with each request's `item`, in any batch.
            batch_size: items sampled at once.
            on_progress: called with the number of items after each batch.

        Returns:
            For each request int32 codes (Q, T), without the prompt.

        Raises:
            ValueError: a request without frames, or out of range.
        """

        def run(batch: FrameBatch) -> np.ndarray:
            codes = np.asarray(self._run(self.params, *batch.arrays, seed))
            if soundstorm.first_level(self.config):
                codes = np.concatenate([batch.units[..., None], codes], axis=-1)
            return codes

        targets = sample_targets(run, requests, self.layout, batch_size, on_progress)
        return [codes.T for codes in targets]

    def _sample(self, params, units, codes, prompts, lengths, items, seed) -> jax.Array:
        """Codes (B, T, L) of prompts and targets; see `FrameBatch` for the arguments."""
        model = soundstorm.bind(self.config, self.layout, params)
        index = jnp.arange(units.shape[1])[None]
        valid = index < lengths[:, None]
        target = valid & (index >= prompts[:, None])
        units = jnp.where(valid, units, -1)
        known = codes[..., soundstorm.first_level(self.config) :]
        codes = jnp.where(target[..., None], model.mask_id, known)

        def predict(codes, level):
            hidden = model.hidden(codes, units, valid)
            return model.level_logits(hidden, jnp.full(len(codes), level))

        def first(ids):
            return predict(codes.at[..., 0].set(ids), 0)

        keys = frame_keys(seed, items, units.shape[1])
        ids, _ = fill(first, codes[..., 0], target, keys, model.mask_id, self.settings)
        codes = codes.at[..., 0].set(ids)

        def greedy(codes, level):
            best = predict(codes, level).argmax(axis=-1)
            known = jnp.take(codes, level, axis=2)
            return codes.at[..., level].set(jnp.where(target, best, known)), None

        return jax.lax.scan(greedy, codes, jnp.arange(1, model.num_levels))[0]


def fill(
    predict: Callable[[jax.Array], jax.Array],
    ids: jax.Array,
    target: jax.Array,
    keys: jax.Array,
    mask_id: int,
    settings: SoundStormSettings,
) -> tuple[jax.Array, jax.Array]:
    """Samples the masked codes of one level in `settings.steps` iterations.

    Args:
        predict: ids (B, T) to logits (B, T, N).
        ids: (B, T), `mask_id` on target frames.
        target: (B, T) bool, frames to sample.
        keys: (B, T) random keys.
        mask_id: id of a masked code.
        settings: iterations, temperature, fraction of classes.

    Returns:
        The ids, and those after every iteration (steps, B, T).
    """
    total = target.sum(axis=1)

    def iteration(ids, index):
        masked = ids == mask_id
        logits = predict(ids)
        log_probs = jax.nn.log_softmax(logits, axis=-1)
        kept = max(1, math.ceil(settings.top_share * logits.shape[-1]))
        lowest = jax.lax.top_k(logits, kept)[0][..., -1:]
        scores = jnp.where(logits >= lowest, logits, -jnp.inf)
        sampled = scores.argmax(axis=-1)
        if settings.temperature > 0:
            temperature = settings.temperature * (1.0 - index / settings.steps)
            noise = jax.vmap(jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[2:])))(
                fold_each(keys, index[None, None])
            )
            sampled = (scores / temperature + noise).argmax(axis=-1)
        confidence = jnp.take_along_axis(log_probs, sampled[..., None], axis=-1)[..., 0]
        ids = jnp.where(masked, sampled.astype(ids.dtype), ids)
        count = masked_count(total, index + 1, settings.steps)
        ranks = jnp.argsort(jnp.argsort(jnp.where(masked, confidence, jnp.inf), axis=1), axis=1)
        ids = jnp.where(masked & (ranks < count[:, None]), mask_id, ids)
        return ids, ids

    return jax.lax.scan(iteration, ids, jnp.arange(settings.steps))


def masked_count(total: jax.Array, done: jax.Array, steps: int) -> jax.Array:
    """Codes of `total` that are masked after `done` of `steps` iterations: a cosine schedule.

    Each iteration unmasks at least one code where any is left.
    """
    ratio = jnp.cos(0.5 * jnp.pi * done / steps)
    count = jnp.floor(total * ratio).astype(jnp.int32)
    return jnp.where(done >= steps, 0, jnp.minimum(count, jnp.maximum(total - done, 0)))
