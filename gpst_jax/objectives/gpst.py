"""The objective of GPST: batch, semantic and acoustic loss, local-drop and FLOPs.

The losses are the same in every codebook pattern: each code of each frame is predicted once.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.loading.batches import batch_shapes
from data_pipeline.tokens import ACOUSTIC, TokenLayout
from gpst_jax.config import ConfigError, GPSTConfig, RunConfig, TransformerConfig
from gpst_jax.config.codebook_weights import codebook_weights
from gpst_jax.models import gpst, patterns
from gpst_jax.objectives import losses
from gpst_jax.objectives.base import Batch, Metrics, Params


class GPSTObjective:
    """GPST: mean semantic loss plus mean acoustic loss (arXiv 2406.00976, eq. 7).

    With weights: `semantic_weight` times the former, plus the mean over codebooks that
    `codebook_weights` weighs; a prediction's z-loss is weighted like the rest of its loss.

    Args:
        config: the run; batch size, sequence length and frame budget fix the batch.
        layout: vocabulary sizes, codebooks and rates of the dataset.
    """

    # Local-drop keeps up to one frame more than its fraction per segment; the static budget has
    # room for that in so many segments.
    MAX_SEGMENTS = 64

    def __init__(self, config: RunConfig, layout: TokenLayout):
        self.config, self.layout = config, layout
        self.model_config = config.model_as(GPSTConfig)
        scheme = self.model_config.codebook_weights
        self._codebook_weights = codebook_weights(scheme, layout.num_codebooks)
        self._with_units = config.data.units == "front"
        self._semantic = self.model_config.semantic_loss and self._with_units
        self._pattern = patterns.arrangement(self.model_config.pattern)
        # Of each segment, in the rows that the loader packs:
        self.spare_positions = self._pattern.spare_positions(layout.num_codebooks)
        frames = math.ceil(config.data.crop_seconds * layout.frame_rate) + 1
        longest = self._pattern.positions(frames, layout.num_codebooks) - frames
        rate = layout.frame_rate + self._with_units * layout.unit_rate
        longest += math.ceil(config.data.crop_seconds * rate) + 2
        if self.model_config.block == "paper" and longest > self.model_config.max_positions:
            raise ConfigError(
                f"config field model.max_positions: {self.model_config.max_positions} is too small "
                f"for data.crop_seconds {config.data.crop_seconds}, which needs {longest}"
            )
        modern_time = self.model_config.block == "modern" and config.data.positions != "time"
        if modern_time or (
            self.model_config.block == "paper" and config.data.positions != "running"
        ):
            raise ConfigError(
                "config field data.positions: the modern block runs on 'time', the paper block on "
                f"'running'; got {config.data.positions!r} for {self.model_config.block!r}"
            )

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters: nested dict of float32 arrays."""
        return gpst.init(self.model_config, self.layout, key)

    def model(self, params: Params) -> gpst.GPST:
        """The module over the given parameters."""
        return gpst.bind(self.model_config, self.layout, params)

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The global batch, "interleaved" in `data_pipeline.loading.batches`."""
        data = self.config.data
        arrays = batch_shapes(
            "interleaved",
            B=data.batch_size,
            L=data.sequence_length,
            F=data.frame_budget,
            Q=self.layout.num_codebooks,
        )
        return {name: jax.ShapeDtypeStruct(*array) for name, array in arrays.items()}

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """Numbers of predictions: units, codes, and codes of the frames that local-drop keeps."""
        semantic = (batch["semantic_targets"] >= 0).sum()
        frames = batch["frame_segments"] > 0
        kept = frames.sum()
        if self.model_config.local_drop > 0:
            any_order = jnp.zeros(frames.shape, jnp.float32)  # the number does not depend on it
            by_row = self._keep(batch["frame_segments"], any_order).sum(axis=1)
            kept = jnp.minimum(by_row, self.kept_frames).sum()
        depth = self.layout.num_codebooks
        return {
            "semantic": jnp.maximum(semantic, 1).astype(jnp.float32),
            "acoustic": jnp.maximum(frames.sum() * depth, 1).astype(jnp.float32),
            "acoustic_kept": jnp.maximum(kept * depth, 1).astype(jnp.float32),
        }

    def loss(
        self,
        params: Params,
        batch: Batch,
        key: jax.Array,
        weights: Mapping[str, jax.Array],
        train: bool,
    ) -> tuple[jax.Array, Metrics]:
        """Weighted, label-smoothed losses of both streams.

        Metrics, whatever the weights: `nll_*`, unsmoothed, in nats per prediction; `z_loss`, per
        prediction, where it is on; `bits_per_second` of audio, the bits of all streams, for which
        kept frames stand for those that local-drop leaves out.
        """
        model, config = self.model(params), self.model_config
        keys = jax.random.split(key, 3)
        global_key, local_key = (keys[0], keys[1]) if train and config.dropout else (None, None)
        line = model.arrange(batch)
        hidden = model.hidden(*line.inputs, key=global_key)
        total, nats, metrics = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32), {}
        penalties: list[tuple[jax.Array, jax.Array]] = []
        mask = batch["semantic_targets"] >= 0
        if self._semantic:
            of_row = line.of_row(hidden)
            sums = losses.in_chunks(
                self._sums, of_row, model.semantic_kernel(), batch["semantic_targets"], mask
            )
            total += config.semantic_weight * sums.loss / weights["semantic"]
            nats += sums.nll
            if sums.z_loss is not None:
                penalties.append((sums.z_loss, mask.sum()))
            metrics["nll_semantic"] = (sums.nll, mask.sum())

        drop = train and config.local_drop > 0
        index, frames, valid = line.frame_index, batch["frames"], batch["frame_segments"] > 0
        if drop:
            index, frames, valid = self._drop_frames(batch, keys[2])
        counted = "acoustic_kept" if drop else "acoustic"
        sums = self._acoustic_sums(model, hidden, index, frames, valid, local_key)
        total += self._weighted(sums.loss).sum() / weights[counted]
        nats += sums.nll.sum() * (weights["acoustic"] / weights[counted])
        depth = self.layout.num_codebooks
        for codebook in range(depth):
            metrics[f"nll_acoustic_q{codebook}"] = (sums.nll[codebook], valid.sum())
        metrics["nll_acoustic"] = (sums.nll.sum(), valid.sum() * depth)
        if sums.z_loss is not None:
            penalties.append((sums.z_loss.sum(), valid.sum() * depth))
            metrics["z_loss"] = jax.tree.map(lambda *parts: sum(parts), *penalties)
        metrics["bits_per_second"] = (nats / math.log(2), self._audio_seconds(batch))
        return total, metrics

    def _sums(self, logits, targets, mask):
        config = self.model_config
        return losses.penalised_cross_entropy(
            logits, targets, mask, config.label_smoothing, config.z_loss
        )

    def _weighted(self, by_codebook: jax.Array) -> jax.Array:
        """Losses (Q,) times the weights of their codebooks, whose mean is 1."""
        if self._codebook_weights is None:
            return by_codebook
        return by_codebook * jnp.asarray(self._codebook_weights, jnp.float32)

    @jax.named_scope("acoustic_loss")
    def _acoustic_sums(self, model, hidden, index, frames, valid, key):
        """Sums by codebook, arrays (Q,), of frames (B, K, Q)."""

        def sums(logits, frames, valid):
            classes = model.targets(frames.reshape(-1, self.layout.num_codebooks))
            by_codebook = jax.vmap(self._sums, in_axes=(1, 1, None))
            return by_codebook(logits, classes, valid.reshape(-1))

        chunk = self.model_config.local_chunk
        if chunk == 0 or chunk >= frames.shape[1]:
            return sums(model.code_logits(hidden, index, frames, key=key), frames, valid)

        def chunk_sums(picked, frames, valid, key):
            local = model.frame_hidden(picked, frames, key=key)
            # Logits would be the largest of what the backward pass of a chunk keeps.
            head = jax.checkpoint(lambda x: sums(model.acoustic_logits(x), frames, valid))
            return head(local)

        picked = model.predicting(hidden, index)
        return losses.over_chunks(chunk_sums, (picked, frames, valid), chunk, key)

    def _drop_frames(self, batch, key):
        """Local-drop: a random subset of every segment's frames, gathered to a static budget.

        Each segment of n predicted frames keeps floor(n (1 - p) + 1) of them, sampled without
        replacement; the end frame is one of the n.
        """
        segments, frames = batch["frame_segments"], batch["frames"]
        scores = jax.random.uniform(key, segments.shape)
        keep = self._keep(segments, scores)
        # Rows of more than MAX_SEGMENTS segments may exceed the budget: random ones are dropped.
        order = jnp.argsort(jnp.where(keep, scores, jnp.inf), axis=1)[:, : self.kept_frames]
        index = jnp.take_along_axis(batch["frame_index"], order, axis=1)
        frames = jnp.take_along_axis(frames, order[:, :, None], axis=1)
        return index, frames, jnp.take_along_axis(keep, order, axis=1)

    @property
    def kept_frames(self) -> int:
        """K: frames per row in the local transformer in training."""
        budget = self.config.data.frame_budget
        if self.model_config.local_drop == 0:
            return budget
        kept = math.floor(budget * (1 - self.model_config.local_drop)) + self.MAX_SEGMENTS
        return min(budget, kept)

    def _keep(self, segments: jax.Array, scores: jax.Array) -> jax.Array:
        """Which frames (B, F) local-drop keeps: those with the lowest scores of their segment."""
        count = (segments[:, :, None] == segments[:, None, :]).sum(axis=2)
        keep = jnp.floor(count * (1.0 - self.model_config.local_drop) + 1.0).astype(jnp.int32)
        return (segments > 0) & (_rank_in_segment(segments, scores) < keep)

    def flops(self) -> dict[str, float]:
        """Training FLOPs of one global batch: 6 per weight and position, attention halved.

        Counted are matrix products, forward and backward: the global transformer over the lines of
        the pattern, the semantic head, where units are predicted, over full rows, the local
        transformer, where there is one, and the acoustic head over kept frames.
        """
        model, data, layout = self.model_config, self.config.data, self.layout
        depth, rows, length = layout.num_codebooks, data.batch_size, data.sequence_length
        line = self._pattern.line_length(length, data.frame_budget, depth)
        frames, positions = rows * self.kept_frames, rows * line
        codes, wide, narrow = frames * depth, model.global_net, model.local_net
        units = rows * length if self._semantic else 0
        parts = {
            "global": 6.0 * positions * self._matrix_weights(wide),
            "global_attention": 6.0 * positions * line * wide.d_model * wide.num_layers,
            "semantic_head": 6.0 * units * wide.d_model * layout.semantic_vocab,
        }
        if model.pattern != "hierarchical":
            acoustic = 6.0 * codes * wide.d_model * layout.acoustic_classes
            return parts | {"acoustic_head": acoustic}
        return parts | {
            "projector": 6.0 * frames * wide.d_model * narrow.d_model,
            "local": 6.0 * codes * self._matrix_weights(narrow),
            "local_attention": 6.0 * codes * depth * narrow.d_model * narrow.num_layers,
            "acoustic_head": 6.0 * codes * narrow.d_model * layout.acoustic_classes,
        }

    def _matrix_weights(self, net: TransformerConfig) -> float:
        matrices = 3 if self.model_config.block == "modern" else 2
        return net.num_layers * (4 * net.d_model**2 + matrices * net.d_model * net.d_ff)

    def rates(self, batch: Batch) -> dict[str, jax.Array]:
        """Predicted tokens and seconds of audio of a batch."""
        weights = self.weights(batch)
        return {
            "tokens": weights["semantic"] + weights["acoustic"],
            "audio_seconds": self._audio_seconds(batch),
        }

    def _audio_seconds(self, batch: Batch) -> jax.Array:
        real = (batch["streams"] == ACOUSTIC) & (batch["segment_ids"] > 0)
        ends = batch["segment_ids"].max(axis=1).sum()  # BOS_a has no duration
        return (real.sum() - ends) / self.layout.frame_rate

    def trainable(self, path: str) -> bool:
        """Every parameter is trained."""
        return True

    def check_dataset(self, spec: DatasetSpec) -> None:
        """Raises ConfigError when the dataset's streams are not those of this model."""
        if spec.layout() != self.layout:
            raise ConfigError(
                f"dataset: its token layout {spec.layout()} is not the model's {self.layout}; "
                "train on the dataset that the model was made for, or start a new run"
            )


def _rank_in_segment(segments: jax.Array, scores: jax.Array) -> jax.Array:
    """Rank (0 first) of every score (B, F) among the scores of its own segment."""

    def row(segments, scores):
        order = jnp.lexsort((scores, segments))
        ordered = segments[order]
        start = jnp.searchsorted(ordered, ordered, side="left")
        ranks = jnp.arange(len(order)) - start
        return jnp.zeros_like(ranks).at[order].set(ranks)

    return jax.vmap(row)(segments, scores)
