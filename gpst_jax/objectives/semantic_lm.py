"""The objective of the semantic language model: next-token prediction on the data's targets."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from data_pipeline.loading.batches import batch_shapes
from data_pipeline.tokens.vocabulary import Vocabulary
from gpst_jax.config import ConfigError, RunConfig, SemanticLMConfig
from gpst_jax.models import semantic_lm
from gpst_jax.objectives import losses
from gpst_jax.objectives.base import Batch, Metrics, Params


class SemanticLMObjective:
    """Mean cross-entropy of the targets in packed sequences of text and units.

    The dataset marks the targets: a stage trains on all tokens, on both speakers, or on answers
    only (arXiv 2305.11000, section 3.2).

    Args:
        config: the run; batch size and sequence length fix the batch.
        vocabulary: ids of text, markers and units.
        unit_rate: units per second, to report seconds of audio.
    """

    arrangement = "sequences"

    def __init__(self, config: RunConfig, vocabulary: Vocabulary, unit_rate: float = 50.0):
        self.config, self.vocabulary, self.unit_rate = config, vocabulary, unit_rate
        self.model_config = config.model_as(SemanticLMConfig)

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters: nested dict of float32 arrays."""
        return semantic_lm.init(self.model_config, self.vocabulary.size, key)

    def model(self, params: Params) -> semantic_lm.SemanticLM:
        """The module over the given parameters."""
        return semantic_lm.bind(self.model_config, params)

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The global batch, "sequences" in `data_pipeline.loading.batches`."""
        data = self.config.data
        arrays = batch_shapes(self.arrangement, B=data.batch_size, L=data.sequence_length)
        return {name: jax.ShapeDtypeStruct(*array) for name, array in arrays.items()}

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """Number of predictions."""
        count = (batch["targets"] >= 0).sum()
        return {"tokens": jnp.maximum(count, 1).astype(jnp.float32)}

    def loss(
        self,
        params: Params,
        batch: Batch,
        key: jax.Array,
        weights: Mapping[str, jax.Array],
        train: bool,
    ) -> tuple[jax.Array, Metrics]:
        """Label-smoothed loss, with the z-loss where it is on.

        Metrics: `nll_text`, with markers, and `nll_units`, unsmoothed, in nats per prediction; and
        `z_loss`, per prediction, where it is on.
        """
        model, config = self.model(params), self.model_config
        hidden = model.hidden(
            batch["tokens"],
            batch["positions"],
            batch["segment_ids"],
            key=key if train and config.dropout else None,
        )
        units = self._is_unit(batch["targets"])
        text = (batch["targets"] >= 0) & ~units
        sums = losses.in_chunks(
            self._sums,
            hidden,
            model.output_kernel(),
            batch["targets"],
            jnp.stack([text, units], axis=-1),
        )
        metrics = {"nll_text": (sums.nll[0], text.sum()), "nll_units": (sums.nll[1], units.sum())}
        if sums.z_loss is not None:
            metrics["z_loss"] = (sums.z_loss, text.sum() + units.sum())
        return sums.loss / weights["tokens"], metrics

    def _sums(self, logits, targets, mask):
        config = self.model_config
        return losses.penalised_cross_entropy(
            logits, targets, mask, config.label_smoothing, config.z_loss
        )

    def _is_unit(self, ids: jax.Array) -> jax.Array:
        start = self.vocabulary.unit_start
        return (ids >= start) & (ids < start + self.vocabulary.num_units)

    def flops(self) -> dict[str, float]:
        """Training FLOPs of one global batch: 6 per weight and position, attention halved."""
        net, data = self.model_config.net, self.config.data
        positions = data.batch_size * data.sequence_length
        projections = 2 * net.d_model * (net.d_model + net.kv_heads * net.head_dim)
        weights = net.num_layers * (projections + 3 * net.d_model * net.d_ff)
        return {
            "net": 6.0 * positions * weights,
            "attention": 6.0 * positions * data.sequence_length * net.d_model * net.num_layers,
            "head": 6.0 * positions * net.d_model * self.vocabulary.size,
        }

    def rates(self, batch: Batch) -> dict[str, jax.Array]:
        """Predicted tokens, and seconds of audio among them."""
        return {
            "tokens": self.weights(batch)["tokens"],
            "audio_seconds": self._is_unit(batch["targets"]).sum() / self.unit_rate,
        }

    def trainable(self, path: str) -> bool:
        """Every parameter is trained."""
        return True

    def check_dataset(self, spec: Any) -> None:
        """Raises ConfigError when the dataset's vocabulary is not that of this model."""
        vocabulary = getattr(spec, "vocabulary", None)
        if vocabulary != self.vocabulary:
            raise ConfigError(
                f"dataset: its vocabulary {vocabulary} is not the model's {self.vocabulary}; train "
                "on sequences of the tokenizers that the model was trained with, or start a new run"
            )
