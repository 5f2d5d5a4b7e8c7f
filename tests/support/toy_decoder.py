"""A toy GPST of either block, its decoder, and log-probabilities by teacher forcing."""

import jax
import jax.numpy as jnp

from data_pipeline.tokens import TokenLayout, segment_tokens
from gpst_jax.config import GPSTConfig, TransformerConfig
from gpst_jax.generation.gpst_sampler import Decoder
from gpst_jax.models import gpst

LAYOUT = TokenLayout(num_units=11, num_codebooks=3, codebook_size=5, unit_rate=50, frame_rate=75)
INPUTS = ("tokens", "positions", "streams", "segment_ids")
NETS = TransformerConfig(32, 2, 4, 48), TransformerConfig(16, 2, 2, 24)
POSITIONS = 512


class Toy:
    """A model of one block type, its decoder, and log-probabilities by teacher forcing."""

    def __init__(self, block, random_params):
        self.config = GPSTConfig(*NETS, block=block, max_positions=POSITIONS)
        self.params = random_params(self.config, LAYOUT)
        self.positions = "running" if block == "paper" else "time"
        self.decoder = Decoder(self.config, LAYOUT, self.params, self.positions)
        self.model = gpst.bind(self.config, LAYOUT, self.params)
        self.log_probs = jax.jit(self._log_probs)

    def segment(self, units, codes, parts=None):
        parts = [(units, codes)] if parts is None else parts
        return segment_tokens(LAYOUT, parts, positions=self.positions)

    def _log_probs(self, batch):
        """Of the targets: semantic (B, L), acoustic (B, F), and all classes of both heads."""
        hidden = self.model.hidden(*(batch[name] for name in INPUTS))
        semantic = jax.nn.log_softmax(self.model.semantic_logits(hidden))
        picked = jnp.take_along_axis(hidden, batch["frame_index"][..., None], axis=1)
        rows, frames, depth = batch["frames"].shape
        local = self.model.local_hidden(
            picked.reshape(rows * frames, -1), batch["frames"].reshape(-1, depth)
        )
        acoustic = jax.nn.log_softmax(self.model.acoustic_logits(local))
        acoustic = acoustic.reshape(rows, frames, depth, -1)
        classes = jnp.maximum(self.model.targets(batch["frames"]), 0)
        targets = jnp.maximum(batch["semantic_targets"], 0)
        return (
            jnp.take_along_axis(semantic, targets[..., None], axis=-1)[..., 0],
            jnp.take_along_axis(acoustic, classes[..., None], axis=-1)[..., 0].sum(-1),
            semantic,
            acoustic,
        )
