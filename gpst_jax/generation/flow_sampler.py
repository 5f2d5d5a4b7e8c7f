"""Sampling latents by flow matching, for the codec's `decode_vectors`."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.tokens import TokenLayout
from gpst_jax.config import ConfigError, FlowConfig
from gpst_jax.generation import ode_solvers
from gpst_jax.generation.frame_batches import FrameBatch, FrameRequest, frame_keys, sample_targets
from gpst_jax.models import flow_matching

FlowRequest = FrameRequest


@dataclasses.dataclass(frozen=True)
class FlowSettings:
    """Settings of the ODE solver and of classifier-free guidance.

    Attributes:
        solver: a name of `ode_solvers.SOLVERS`.
        steps: equal steps from t = 0 to 1.
        guidance: w of v + w (v - v_uncond), v_uncond without prompt and semantics; 0: no guidance.
        temperature: scale of the prior noise; below 1, samples vary less than the data.
    """

    solver: str = "midpoint"
    steps: int = 16
    guidance: float = 0.0
    temperature: float = 1.0

    def __post_init__(self):
        if self.steps < 1 or self.guidance < 0 or self.temperature < 0:
            raise ConfigError(
                f"flow: steps {self.steps} must be at least 1, guidance {self.guidance} and "
                f"temperature {self.temperature} not negative"
            )
        ode_solvers.tableau(self.solver)

    @property
    def evaluations(self) -> int:
        """Network evaluations per item; guidance doubles the solver's function evaluations."""
        calls = ode_solvers.num_evaluations(self.solver, self.steps)
        return calls * (2 if self.guidance else 1)


class FlowSampler:
    """Jitted sampling for one model; compiled once per padded shape.

    Args:
        config: the model.
        layout: token layout of its dataset.
        params: its parameters.
        settings: solver and guidance.

    Raises:
        ConfigError: guidance with a model that was not trained for it.
    """

    def __init__(
        self,
        config: FlowConfig,
        layout: TokenLayout,
        params: dict,
        settings: FlowSettings = FlowSettings(),
    ):
        if settings.guidance and not config.guidance_drop:
            raise ConfigError(
                "guidance: the model was trained without dropping its condition; train it with "
                "model.guidance_drop above 0, or take guidance 0"
            )
        self.config, self.layout, self.params, self.settings = config, layout, params, settings
        self._run = jax.jit(self._sample)

    def sample(
        self,
        requests: Sequence[FlowRequest],
        *,
        seed: int = 0,
        batch_size: int = 32,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[np.ndarray]:
        """Samples latents in batches of similar length, shortest first.

        Args:
            requests: the items.
            seed: fixes the noise, together with each request's `item`, in any batch.
            batch_size: items sampled at once.
            on_progress: called with the number of items after each batch.

        Returns:
            For each request (T, D) float32, in the codec's space, without the prompt.

        Raises:
            ValueError: a request without frames, or out of range.
        """

        def run(batch: FrameBatch) -> np.ndarray:
            return np.asarray(self._run(self.params, *batch.arrays, seed))

        return sample_targets(run, requests, self.layout, batch_size, on_progress)

    def _sample(self, params, units, codes, prompts, lengths, items, seed) -> jax.Array:
        """Latents (B, T, D) of prompts and targets; see `FrameBatch` for the arguments."""
        model = flow_matching.bind(self.config, self.layout, params)
        index = jnp.arange(units.shape[1])[None]
        valid = index < lengths[:, None]
        e = jnp.where(valid[..., None], model.semantics(units), 0.0)
        context = flow_matching.prompt_context(model.latents(codes), index >= prompts[:, None])
        keys = frame_keys(seed, items, units.shape[1])
        noise = jax.vmap(jax.vmap(lambda key: jax.random.normal(key, e.shape[2:])))(keys)
        start, _ = model.endpoints(jnp.zeros_like(e), e, self.settings.temperature * noise)
        guidance = self.settings.guidance

        def pair(x, other):
            return jnp.concatenate([x, other])

        def field(x, t):
            times = jnp.full(len(x), t)
            if not guidance:
                return model.velocity(x, e, context, times, valid)
            both = model.velocity(
                pair(x, x),
                pair(e, jnp.zeros_like(e)),
                pair(context, jnp.zeros_like(context)),
                pair(times, times),
                pair(valid, valid),
            )
            conditional, unconditional = jnp.split(both, 2)
            return conditional + guidance * (conditional - unconditional)

        latents = ode_solvers.integrate(field, start, self.settings.steps, self.settings.solver)
        if self.config.chain == "explicit":
            latents = latents + e
        return model.to_codec(latents)
