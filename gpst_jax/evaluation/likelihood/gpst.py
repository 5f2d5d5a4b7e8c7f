"""Likelihoods under GPST: of an utterance's units, then of its frames, one codebook after another.

log p(units, frames) = sum over units of log p(unit | units before)
    + sum over frames and codebooks of log p(code | units, frames before, codes before)

with the end of each stream among the predictions (arXiv 2406.00976, section 3). The terms of the
units do not depend on the frames, so that their sum alone is the likelihood of the units. The codes
before are those of the model's codebook pattern (`gpst_jax.models.patterns`).
"""

import dataclasses
from typing import Any

import jax
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
from gpst_jax.models import gpst, patterns
from gpst_jax.objectives import losses


class GPSTScorer(Scorer[Part]):
    """A loaded GPST; sequences are an utterance's units (S,) and codes (Q, T).

    Streams are `semantic` (where the model was trained on it, and has units) and `acoustic_q0` to
    `acoustic_q<Q-1>`. Repeated units are collapsed where the model's are.

    Args:
        loaded: the model.
    """

    def __init__(self, loaded: Loaded):
        self.config = loaded.config.model_as(GPSTConfig)
        self.data = loaded.config.data
        self.layout = DatasetSpec.parse(loaded.dataset, "the checkpoint").layout()
        self.arrangement = patterns.arrangement(self.config.pattern)
        self._with_units = self.data.units == "front"
        self._semantic = self.config.semantic_loss and self._with_units
        semantic = ("semantic",) if self._semantic else ()
        acoustic = (f"acoustic_q{codebook}" for codebook in range(self.layout.num_codebooks))
        self.streams = (*semantic, *acoustic)
        super().__init__(
            loaded.params,
            {
                "model": dataclasses.asdict(self.config),
                "layout": dataclasses.asdict(self.layout),
                "positions": self.data.positions,
                "deduplicate": self.data.deduplicate,
                **({} if self._with_units else {"units": "none"}),
            },
        )

    def digest(self, item: Part) -> str:
        """A digest of units and codes."""
        units, codes = (np.ascontiguousarray(stream, "<i4") for stream in item)
        return digest(f"{units.shape}{codes.shape}".encode() + units.tobytes() + codes.tobytes())

    def refusal(self, item: Part) -> str | None:
        """An utterance must fit the table of positions of the `paper` block."""
        depth, (positions, frames) = self.layout.num_codebooks, self._lengths(item)
        positions += self.arrangement.positions(frames, depth) - frames
        if self.config.block == "paper" and positions > self.config.max_positions:
            return (
                f"needs {positions} positions, the model has {self.config.max_positions}: give "
                "shorter recordings"
            )
        return None

    def shape(self, item: Part) -> Shape:
        """Padded numbers of positions and of predicted frames."""
        positions, frames = self._lengths(item)
        spare = self.arrangement.spare_positions(self.layout.num_codebooks)
        return padded(positions + spare), padded(frames)

    def row(self, item: Part | None, shape: Shape) -> dict[str, np.ndarray]:
        """A row of the arrangement "interleaved", of one segment or none."""
        packing = PackingConfig(
            sequence_length=shape[0],
            frame_budget=shape[1],
            crop_seconds=self.data.crop_seconds,
            units=self.data.units,
            deduplicate=self.data.deduplicate,
            positions=self.data.positions,
        )
        return build_row(self.layout, packing, [] if item is None else [[item]])

    def _lengths(self, item: Part) -> tuple[int, int]:
        units, codes = item
        kept = deduplicate(units)[0] if self.data.deduplicate else units
        frames = codes.shape[1] + 1
        if not self._with_units:
            kept = kept[:0]
        return len(kept) + 1 + frames, frames

    def _sums(self, params: Any, batch: Batch) -> Sums:
        model = gpst.bind(self.config, self.layout, params)
        line = model.arrange(batch)
        hidden = model.hidden(*line.inputs)
        sums: Sums = {}
        if self._semantic:
            targets = batch["semantic_targets"]
            mask = targets >= 0
            nats = sum_by_row(line.of_row(hidden), model.semantic_kernel(), targets, mask)
            sums["semantic"] = (nats, mask.sum(axis=1))
        frames, valid = batch["frames"], batch["frame_segments"] > 0
        rows, count, depth = frames.shape
        logits = model.code_logits(hidden, line.frame_index, frames)
        logits = logits.reshape(rows, count, depth, -1)
        classes = model.targets(frames)

        def nll(logits: jax.Array, classes: jax.Array, valid: jax.Array) -> jax.Array:
            return losses.cross_entropy(logits, classes, valid)[1]

        by_codebook = jax.vmap(nll, in_axes=(1, 1, None))
        nats = jax.vmap(by_codebook)(logits, classes, valid)
        for codebook in range(depth):
            sums[f"acoustic_q{codebook}"] = (nats[:, codebook], valid.sum(axis=1))
        return sums
