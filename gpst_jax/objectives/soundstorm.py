"""The objective of SoundStorm (arXiv 2305.09636): masked codes of one level per row."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.tokens import TokenLayout
from gpst_jax.config import RunConfig, SoundStormConfig
from gpst_jax.models import soundstorm
from gpst_jax.objectives import losses
from gpst_jax.objectives.base import Batch, Metrics, Params
from gpst_jax.objectives.frames import FrameObjective, conformer_weights, spread


class SoundStormObjective(FrameObjective):
    """Mean cross-entropy of the masked codes.

    Args:
        config: the run.
        layout: vocabulary sizes, codebooks and rates of the dataset.
        codebooks: float32 (Q, N, D), the codec's vectors, which initialise the tables.
    """

    def __init__(self, config: RunConfig, layout: TokenLayout, codebooks: np.ndarray):
        self.model_config = model = config.model_as(SoundStormConfig)
        super().__init__(
            config,
            layout,
            codebooks,
            semantics=model.semantics,
            max_prompt_seconds=model.max_prompt_seconds,
            prompt_per_item=model.prompt_per_item,
        )
        self.num_levels = soundstorm.num_levels(model, layout)

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters: nested dict of float32 arrays."""
        return soundstorm.init(self.model_config, self.layout, self.codebooks, key)

    def model(self, params: Params) -> soundstorm.SoundStorm:
        """The module over the given parameters."""
        return soundstorm.bind(self.model_config, self.layout, params)

    def loss(
        self,
        params: Params,
        batch: Batch,
        key: jax.Array,
        weights: Mapping[str, jax.Array],
        train: bool,
    ) -> tuple[jax.Array, Metrics]:
        """Mean negative log-likelihood in nats over the masked codes; metrics by codebook.

        Each row samples its level and its fraction of masked frames uniformly. Without `train` they
        are fixed, as are the prompts and the masked frames.
        """
        model, config = self.model(params), self.model_config
        if not train:
            key = jax.random.key(0)
        prompt_key, level_key, share_key, select_key, dropout_key = jax.random.split(key, 5)
        valid = batch["segment_ids"] > 0
        rows = len(valid)
        prompt = self.sample_prompts(valid, prompt_key, train)
        first = soundstorm.first_level(config)
        codes = batch["codes"][..., first:]
        units = jnp.where(valid, batch["units"], -1)
        if train:
            level = jax.random.randint(level_key, (rows,), 0, self.num_levels)
            share = jax.random.uniform(share_key, (rows,))
        else:
            level, share = jnp.arange(rows) % self.num_levels, spread(2 * rows)[rows:]
        selected = select_frames(valid & ~prompt, share, select_key)
        hidden = model.hidden(
            soundstorm.mask_codes(codes, level, selected, prompt, model.mask_id),
            units,
            valid,
            key=dropout_key if train and config.dropout else None,
        )
        targets = jnp.take_along_axis(codes, level[:, None, None], axis=2)[..., 0]
        logits = model.level_logits(hidden, level)
        total, count = jnp.zeros(()), jnp.zeros(())
        metrics = {}
        for index in range(self.num_levels):
            mask = selected & (level == index)[:, None]
            _, nll = losses.cross_entropy(logits, targets, mask)
            metrics[f"nll_q{index + first}"] = (nll, mask.sum().astype(jnp.float32))
            total, count = total + nll, count + mask.sum()
        metrics["nll"] = (total, count)
        return total / jnp.maximum(count, 1.0) * self.share(batch, weights), metrics

    def flops(self) -> dict[str, float]:
        """Training FLOPs of one global batch: 6 per weight and frame, and attention."""
        net, data = self.model_config.net, self.config.data
        head = net.d_model * (self.num_levels * net.d_model + self.layout.codebook_size)
        parts = {"heads": 6.0 * data.batch_size * data.frame_budget * head}
        return self.backbone_flops(net, conformer_weights(net)) | parts

    def trainable(self, path: str) -> bool:
        """Every parameter is trained."""
        return True


def select_frames(eligible: jax.Array, share: jax.Array, key: jax.Array) -> jax.Array:
    """Frames (B, T) to mask: a random fraction `share` (B,) of the eligible ones of each row.

    At least one where any is eligible.
    """
    count = eligible.sum(axis=1)
    num_selected = jnp.clip(jnp.round(share * count).astype(jnp.int32), 1, count)
    scores = jnp.where(eligible, jax.random.uniform(key, eligible.shape), jnp.inf)
    ranks = jnp.argsort(jnp.argsort(scores, axis=1), axis=1)
    return eligible & (ranks < num_selected[:, None])
