"""The perceptual stage of SpeechGPT-Gen: units and a prompt in, what the codec decodes out."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from data_pipeline.tokens import TokenLayout
from gpst_jax.checkpoints.manager import Loaded
from gpst_jax.config import FlowConfig, SoundStormConfig
from gpst_jax.generation.flow_sampler import FlowSampler, FlowSettings
from gpst_jax.generation.frame_batches import FrameRequest
from gpst_jax.generation.soundstorm_sampler import SoundStormSampler, SoundStormSettings

PerceptualSettings = FlowSettings | SoundStormSettings


class PerceptualStage(Protocol):
    """A model that adds the voice of a prompt to semantic units."""

    def sample(
        self,
        requests: Sequence[FrameRequest],
        *,
        seed: int,
        batch_size: int,
        on_progress: Callable[[int], None] | None,
    ) -> list[np.ndarray]:
        """Samples each request, without its prompt.

        Args:
            requests: units and prompts.
            seed: with each request's `item`, seeds its random stream, whatever the batch.
            batch_size: requests sampled at once.
            on_progress: called with the number of requests after each batch.

        Returns:
            For each request codes (Q, T) int32, or latents (T, D) float32 in the codec's space.
        """
        ...


def family_of(settings: PerceptualSettings) -> str:
    """The family of models that the settings are for."""
    return "soundstorm" if isinstance(settings, SoundStormSettings) else "flow"


def make_stage(model: Loaded, layout: TokenLayout, settings: PerceptualSettings) -> PerceptualStage:
    """The perceptual stage of a checkpoint.

    Args:
        model: a loaded checkpoint of the settings' family.
        layout: token layout of its dataset.
        settings: how it is sampled.

    Raises:
        ConfigError: the checkpoint is of another family, or the model does not support the
            settings.
    """
    if isinstance(settings, SoundStormSettings):
        config = model.config.model_as(SoundStormConfig)
        return SoundStormSampler(config, layout, model.params, settings)
    return FlowSampler(model.config.model_as(FlowConfig), layout, model.params, settings)
