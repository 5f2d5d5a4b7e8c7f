"""The interface between the training loop and a model family.

Losses are sums over predictions divided by normalisers of the global batch, so that the losses of
micro-batches add up to the loss of the batch, however many predictions each has.
"""

from collections.abc import Mapping
from typing import Protocol

import jax

from data_pipeline.datasets.token_dataset import DatasetSpec
from gpst_jax.models import Params

Batch = Mapping[str, jax.Array]
Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, count)


class Objective(Protocol):
    """What the training loop needs of a model family."""

    def init(self, key: jax.Array) -> Params:
        """Fresh float32 parameters as a nested dict."""

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Names, shapes and dtypes of the global batch, see `data_pipeline.loading.batches`."""

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """Normalisers of the global batch, at least 1."""

    def loss(
        self,
        params: Params,
        batch: Batch,
        key: jax.Array,
        weights: Mapping[str, jax.Array],
        train: bool,
    ) -> tuple[jax.Array, Metrics]:
        """Loss of a batch or micro-batch and its metrics as (sum, count) pairs."""

    def flops(self) -> dict[str, float]:
        """Floating-point operations of one training step by part; their sum counts for MFU."""

    def rates(self, batch: Batch) -> dict[str, jax.Array]:
        """Amounts for throughput: predicted `tokens` and `audio_seconds` of a batch."""

    def trainable(self, path: str) -> bool:
        """Whether the parameter at `path` is updated."""

    def check_dataset(self, spec: DatasetSpec) -> None:
        """Raises ConfigError when the dataset does not fit the model."""
