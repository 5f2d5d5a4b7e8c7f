"""Toy objectives, parameters and batches of the models over frames."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.tokens import TokenLayout
from gpst_jax.config import (
    DataConfig,
    FlowConfig,
    MeshConfig,
    RunConfig,
    SoundStormConfig,
    TransformerConfig,
)
from gpst_jax.models import flow_matching
from gpst_jax.objectives import FlowObjective, SoundStormObjective

LAYOUT = TokenLayout(num_units=12, num_codebooks=3, codebook_size=16, unit_rate=50, frame_rate=50)
NET = TransformerConfig(16, 1, 2, 32)
WIDTH = 8  # of the latents
ROWS, FRAMES = 4, 20
LENGTHS = (20, 14, 9, 17)


def codebooks() -> np.ndarray:
    """Vectors (Q, N, D) with a mean, the first codebook the largest."""
    rng = np.random.default_rng(5)
    scale = np.array([2.0, 0.8, 0.4], np.float32)[:, None, None]
    offset = np.array([3.0, 0.1, 0.1], np.float32)[:, None, None]
    return scale * rng.normal(size=(3, 16, WIDTH)).astype(np.float32) + offset


def flow(net: TransformerConfig = NET, **model) -> FlowObjective:
    """An objective of flow matching; `rows` and `frames` are those of the batch."""
    return FlowObjective(_run(FlowConfig(net, **model)), LAYOUT, codebooks())


def soundstorm(net: TransformerConfig = NET, **model) -> SoundStormObjective:
    """An objective of SoundStorm."""
    return SoundStormObjective(_run(SoundStormConfig(net, **model)), LAYOUT, codebooks())


def _run(model) -> RunConfig:
    data = DataConfig(batch_size=ROWS, frame_budget=FRAMES, crop_seconds=FRAMES / 50)
    return RunConfig("toy", model, data, mesh=MeshConfig())


@functools.cache
def batch(rows: int = ROWS) -> dict[str, np.ndarray]:
    """Random rows of several lengths, whose first codebook is the units."""
    rng = np.random.default_rng(1)
    units = rng.integers(LAYOUT.num_units, size=(rows, FRAMES))
    codes = rng.integers(LAYOUT.codebook_size, size=(rows, FRAMES, LAYOUT.num_codebooks))
    codes[..., 0] = units
    lengths = np.resize(LENGTHS, rows)
    segments = np.arange(FRAMES)[None] < lengths[:, None]
    found = {"units": units, "codes": codes, "segment_ids": segments}
    return {name: value.astype(np.int32) for name, value in found.items()}


def random_params(objective, seed: int = 0) -> dict:
    """Parameters drawn by NumPy, no gain 1 and nothing else 0; what is frozen as it should be."""
    shapes = jax.eval_shape(objective.init, jax.random.key(0))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        noise = rng.normal(size=leaf.shape)
        if name in ("kernel", "taps"):
            noise = noise * leaf.shape[-2] ** -0.5
        elif name != "embedding":
            noise = 1.0 * (name in ("scale", "channel_scale")) + 0.1 * noise
        return jnp.asarray(noise, jnp.float32)

    params = jax.tree_util.tree_map_with_path(draw, shapes)
    if isinstance(objective, FlowObjective):
        books, semantics = objective.codebooks, objective.model_config.semantics
        shift, scale = flow_matching.latent_statistics(books, semantics, LAYOUT.num_units)
        params["codebooks"] = {"embedding": jnp.asarray(books)}
        params |= {"latent_shift": jnp.asarray(shift), "latent_scale": jnp.float32(scale)}
    return params
