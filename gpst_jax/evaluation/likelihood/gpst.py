"""Likelihoods under GPST: of an utterance's units, then of its frames, one codebook after another.

log p(units, frames) = sum over units of log p(unit | units before)
    + sum over frames and codebooks of log p(code | units, frames before, codes before)

with the end of each stream among the predictions (arXiv 2406.00976, section 3). The terms of the
units do not depend on the frames, so that their sum alone is the likelihood of the units.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.loading.token_rows import build_row
from data_pipeline.packing.token_plan import PackingConfig
from data_pipeline.runtime.contents import digest
from data_pipeline.tokens import deduplicate
from gpst_jax.checkpoints.manager import Loaded
from gpst_jax.config import GPSTConfig
from gpst_jax.evaluation.likelihood.scorer import Batch, Scorer, Shape, Sums, padded, sum_by_row
from gpst_jax.generation.gpst_modes import Part
from gpst_jax.models import gpst
from gpst_jax.objectives import losses


class GPSTScorer(Scorer[Part]):
    """A loaded GPST; sequences are an utterance's units (S,) and codes (Q, T).

    Streams are `semantic` (where the model was trained on it) and `acoustic_q0` to
    `acoustic_q<Q-1>`. Repeated units are collapsed where the model's are.

    Args:
        loaded: the model.
    """

    def __init__(self, loaded: Loaded):
        self.config = loaded.config.model_as(GPSTConfig)
        self.data = loaded.config.data
        self.layout = DatasetSpec.parse(loaded.dataset, "the checkpoint").layout()
        semantic = ("semantic",) if self.config.semantic_loss else ()
        acoustic = (f"acoustic_q{codebook}" for codebook in range(self.layout.num_codebooks))
        self.streams = (*semantic, *acoustic)
        super().__init__(
            loaded.params,
            {
                "model": dataclasses.asdict(self.config),
                "layout": dataclasses.asdict(self.layout),
                "positions": self.data.positions,
                "deduplicate": self.data.deduplicate,
            },
        )

    def digest(self, item: Part) -> str:
        """A digest of units and codes."""
        units, codes = (np.ascontiguousarray(stream, "<i4") for stream in item)
        return digest(f"{units.shape}{codes.shape}".encode() + units.tobytes() + codes.tobytes())

    def refusal(self, item: Part) -> str | None:
        """An utterance must fit the table of positions of the `paper` block."""
        positions = self._lengths(item)[0]
        if self.config.block == "paper" and positions > self.config.max_positions:
            return (
                f"needs {positions} positions, the model has {self.config.max_positions}: give "
                "shorter recordings"
            )
        return None

    def shape(self, item: Part) -> Shape:
        """Padded numbers of positions and of predicted frames."""
        positions, frames = self._lengths(item)
        return padded(positions), padded(frames)

    def row(self, item: Part | None, shape: Shape) -> dict[str, np.ndarray]:
        """A row of the arrangement "interleaved", of one segment or none."""
        packing = PackingConfig(
            sequence_length=shape[0],
            frame_budget=shape[1],
            crop_seconds=self.data.crop_seconds,
            deduplicate=self.data.deduplicate,
            positions=self.data.positions,
        )
        return build_row(self.layout, packing, [] if item is None else [[item]])

    def _lengths(self, item: Part) -> tuple[int, int]:
        units, codes = item
        kept = deduplicate(units)[0] if self.data.deduplicate else units
        frames = codes.shape[1] + 1
        return len(kept) + 1 + frames, frames

    def _sums(self, params: Any, batch: Batch) -> Sums:
        model = gpst.bind(self.config, self.layout, params)
        inputs = (batch[name] for name in ("tokens", "positions", "streams", "segment_ids"))
        hidden = model.hidden(*inputs)
        sums: Sums = {}
        if self.config.semantic_loss:
            targets = batch["semantic_targets"]
            mask = targets >= 0
            nats = sum_by_row(hidden, model.semantic_kernel(), targets, mask)
            sums["semantic"] = (nats, mask.sum(axis=1))
        frames, valid = batch["frames"], batch["frame_segments"] > 0
        rows, count, depth = frames.shape
        picked = jnp.take_along_axis(hidden, batch["frame_index"][:, :, None], axis=1)
        flat = frames.reshape(-1, depth)
        local = model.local_hidden(picked.reshape(rows * count, -1), flat)
        logits = model.acoustic_logits(local).reshape(rows, count, depth, -1)
        classes = model.targets(flat).reshape(frames.shape)

        def nll(logits: jax.Array, classes: jax.Array, valid: jax.Array) -> jax.Array:
            return losses.cross_entropy(logits, classes, valid)[1]

        by_codebook = jax.vmap(nll, in_axes=(1, 1, None))
        nats = jax.vmap(by_codebook)(logits, classes, valid)
        for codebook in range(depth):
            sums[f"acoustic_q{codebook}"] = (nats[:, codebook], valid.sum(axis=1))
        return sums
