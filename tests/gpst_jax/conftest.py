"""Toy segments, the rows they are packed in, and toy parameters, for the tests of the model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline import tokens
from gpst_jax.models import gpst


def _pack_rows(rows, length, frames):
    """Batch arrays from rows of segments, by the contract of the loader, in the plainest way."""
    depth = rows[0][0]["tokens"].shape[1]
    shape, budget = (len(rows), length), (len(rows), frames)
    batch = {
        "tokens": np.full((*shape, depth), tokens.PAD, np.int32),
        "positions": np.zeros(shape, np.int32),
        "streams": np.zeros(shape, np.int32),
        "segment_ids": np.zeros(shape, np.int32),
        "semantic_targets": np.full(shape, tokens.NO_TARGET, np.int32),
        "frame_index": np.zeros(budget, np.int32),
        "frames": np.full((*budget, depth), tokens.PAD, np.int32),
        "frame_segments": np.zeros(budget, np.int32),
    }
    for row, segments in enumerate(rows):
        at = frame_at = 0
        for number, segment in enumerate(segments, start=1):
            n, k = len(segment["tokens"]), len(segment["frames"])
            for name in ("tokens", "positions", "streams", "semantic_targets"):
                batch[name][row, at : at + n] = segment[name]
            batch["segment_ids"][row, at : at + n] = number
            batch["frame_index"][row, frame_at : frame_at + k] = segment["frame_index"] + at
            batch["frames"][row, frame_at : frame_at + k] = segment["frames"]
            batch["frame_segments"][row, frame_at : frame_at + k] = number
            at, frame_at = at + n, frame_at + k
    return batch


def _random_part(layout, rng, num_units, num_frames):
    units = rng.integers(layout.num_units, size=num_units)
    return units, rng.integers(layout.codebook_size, size=(layout.num_codebooks, num_frames))


def _random_params(config, layout, seed=0):
    """Parameters drawn by NumPy, as compiling JAX's generator for every shape takes long.

    Scales are those of `gpst.init`, but no gain is 1 and no bias 0, so that a forgotten one shows.
    """
    shapes = jax.eval_shape(functools.partial(gpst.init, config, layout), jax.random.key(0))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name, noise = path[-1].key, rng.normal(size=leaf.shape)
        if name in ("scale", "bias"):
            noise = (name == "scale") + 0.1 * noise
        else:
            fan_in = leaf.shape[-2] if name == "kernel" else leaf.shape[-1]
            noise = noise * fan_in**-0.5
        return jnp.asarray(noise, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="session")
def pack_rows():
    """Function (rows of segments, row length, frame budget) -> batch of NumPy arrays."""
    return _pack_rows


@pytest.fixture(scope="session")
def random_part():
    """Function (layout, rng, units, frames) -> raw (units (S,), codes (Q, T))."""
    return _random_part


@pytest.fixture(scope="session")
def random_params():
    """Function (config, layout, seed=0) -> nested dict of parameters."""
    return _random_params
