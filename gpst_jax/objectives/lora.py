"""Low-rank adapters for any objective: the base is frozen, the adapters are trained."""

from collections.abc import Mapping

import jax

from data_pipeline.datasets.token_dataset import DatasetSpec
from gpst_jax.models.lora import ADAPTERS, BASE, LoraConfig, init_adapters, merge
from gpst_jax.objectives import Batch, Metrics, Objective, Params


class LoraObjective:
    """An objective whose parameters are frozen, except adapters and those of `config.trained`.

    Args:
        objective: the wrapped one.
        config: of the adapters.
    """

    def __init__(self, objective: Objective, config: LoraConfig):
        self.objective, self.lora = objective, config
        # How the loader lays rows out, as the wrapped objective needs them.
        self.arrangement = getattr(objective, "arrangement", "interleaved")
        self.spare_positions = getattr(objective, "spare_positions", 0)

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters of the wrapped objective with fresh adapters."""
        return self.adapt(self.objective.init(key), jax.random.fold_in(key, 1))

    def adapt(self, base: Params, key: jax.Array) -> Params:
        """The given parameters with fresh adapters; raises ConfigError as `init_adapters`."""
        return {BASE: base, ADAPTERS: init_adapters(base, self.lora, key)}

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """That of the wrapped objective."""
        return self.objective.batch_spec()

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """Those of the wrapped objective."""
        return self.objective.weights(batch)

    def loss(
        self,
        params: Params,
        batch: Batch,
        key: jax.Array,
        weights: Mapping[str, jax.Array],
        train: bool,
    ) -> tuple[jax.Array, Metrics]:
        """The wrapped objective's loss at the merged parameters."""
        merged = merge(params, self.lora, jax.random.fold_in(key, 1) if train else None)
        return self.objective.loss(merged, batch, key, weights, train)

    def flops(self) -> dict[str, float]:
        """Those of the wrapped objective: an adapter's gradient needs that of its matrix."""
        return self.objective.flops()

    def rates(self, batch: Batch) -> dict[str, jax.Array]:
        """Those of the wrapped objective."""
        return self.objective.rates(batch)

    def trainable(self, path: str) -> bool:
        """The adapters, and what `config.trained` names of the base."""
        part, _, rest = path.partition("/")
        if part == ADAPTERS:
            return True
        return self.lora.trains(rest) and self.objective.trainable(rest)

    def check_dataset(self, spec: DatasetSpec) -> None:
        """As the wrapped objective."""
        self.objective.check_dataset(spec)
