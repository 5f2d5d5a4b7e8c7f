"""The objective of flow matching (arXiv 2401.13527, stage two): velocity regression."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.tokens import TokenLayout
from gpst_jax.config import FlowConfig, RunConfig
from gpst_jax.models import flow_matching
from gpst_jax.models.conformer import split_depth
from gpst_jax.objectives.base import Batch, Metrics, Params
from gpst_jax.objectives.frames import FrameObjective, conformer_weights, spread


class FlowObjective(FrameObjective):
    """Mean squared error of the velocity on the frames after the prompt.

    Args:
        config: the run.
        layout: vocabulary sizes, codebooks and rates of the dataset.
        codebooks: float32 (Q, N, D), the codec's vectors.
        read_codes: returns codes (F, Q) of recorded frames, for the mean and scale of the latents
            in fresh parameters; called by `init` only.
    """

    def __init__(
        self,
        config: RunConfig,
        layout: TokenLayout,
        codebooks: np.ndarray,
        read_codes: Callable[[], np.ndarray | None] = lambda: None,
    ):
        self._read_codes = functools.cache(read_codes)
        self.model_config = model = config.model_as(FlowConfig)
        super().__init__(
            config,
            layout,
            codebooks,
            semantics=model.semantics,
            max_prompt_seconds=model.max_prompt_seconds,
            prompt_per_item=model.prompt_per_item,
        )

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters: nested dict of float32 arrays."""
        return flow_matching.init(
            self.model_config, self.layout, self.codebooks, key, self._read_codes()
        )

    def model(self, params: Params) -> flow_matching.FlowMatcher:
        """The module over the given parameters."""
        return flow_matching.bind(self.model_config, self.layout, params)

    def loss(
        self,
        params: Params,
        batch: Batch,
        key: jax.Array,
        weights: Mapping[str, jax.Array],
        train: bool,
    ) -> tuple[jax.Array, Metrics]:
        """Mean squared error per dimension over predicted frames, at one flow time per row.

        The times of a batch are evenly spaced over [0, 1) from a random offset. Without `train`
        prompts, times and noise are fixed.
        """
        model, config = self.model(params), self.model_config
        if not train:
            key = jax.random.key(0)
        prompt_key, time_key, noise_key, drop_key, dropout_key = jax.random.split(key, 5)
        valid = batch["segment_ids"] > 0
        x1 = model.latents(batch["codes"])
        e = jnp.where(valid[..., None], model.semantics(batch["units"]), 0.0)
        predicted = valid & ~self.sample_prompts(valid, prompt_key, train)
        context = flow_matching.prompt_context(x1, predicted)
        rows = len(x1)
        if train:
            t = (jax.random.uniform(time_key) + jnp.arange(rows) / rows) % 1.0
        else:
            t = spread(2 * rows)[rows:]  # not the numbers of the prompts
        start, end = model.endpoints(x1, e, jax.random.normal(noise_key, x1.shape))
        condition = e
        if train and config.guidance_drop > 0:
            kept = ~jax.random.bernoulli(drop_key, config.guidance_drop, (rows, 1, 1))
            condition, context = jnp.where(kept, condition, 0.0), jnp.where(kept, context, 0.0)
        prediction = model.velocity(
            flow_matching.path_point(start, end, t[:, None, None], config.sigma),
            condition,
            context,
            t,
            valid,
            key=dropout_key if train and config.dropout else None,
        )
        target = flow_matching.path_velocity(start, end, config.sigma)
        total, count = flow_matching.squared_error(prediction, target, predicted)
        loss = total / jnp.maximum(count, 1.0) * self.share(batch, weights)
        return loss, {"flow_mse": (total, count)}

    def flops(self) -> dict[str, float]:
        """Training FLOPs of one global batch: 6 per weight and frame, and attention."""
        model, data = self.model_config, self.config.data
        net, latent = model.net, self.codebooks.shape[-1]
        inputs = (2 if model.chain == "implicit" else 3) * latent + 1
        frames = data.batch_size * data.frame_budget
        if model.backbone == "dit":
            weights = 4.0 * net.d_model**2 + 3.0 * net.d_model * net.d_ff
        else:
            weights = conformer_weights(net)
        parts = {"ends": 6.0 * frames * net.d_model * (inputs + latent)}
        if model.backbone == "uconformer":
            skips = split_depth(net.num_layers)[0]
            parts["skips"] = 6.0 * frames * skips * 2 * net.d_model**2
        return self.backbone_flops(net, weights) | parts

    def trainable(self, path: str) -> bool:
        """All but the codebooks and the latent statistics."""
        return not path.endswith(flow_matching.FROZEN)
