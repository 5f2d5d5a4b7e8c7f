"""Saved on one mesh, restored on another: the same bits."""

import jax
import numpy as np
import pytest
from small_run import CONFIG

from data_pipeline.datasets.token_dataset import DatasetSpec
from experiments.common import load_config
from gpst_jax.checkpoints import manager
from gpst_jax.config import MeshConfig
from gpst_jax.objectives import make_objective
from gpst_jax.parallel import sharding
from gpst_jax.training import step

PAIRS = [
    ((1, 1, 1), (1, 8, 1)),
    ((1, 8, 1), (1, 1, 1)),
    ((1, 8, 1), (2, 2, 2)),
    ((2, 2, 2), (1, 4, 2)),
    ((1, 2, 4), (8, 1, 1)),
    ((8, 1, 1), (1, 4, 2)),
    ((1, 4, 1), (2, 4, 1)),
]


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(CONFIG)
    config = load_config(str(path)).override(["data.batch_size=8", "train.ema_decay=0.9"])
    return config, make_objective(config, DatasetSpec.load(dataset), dataset)


def state_on(sizes, run):
    """A state with values of its own everywhere, on the first devices of a mesh."""
    config, objective = run
    mesh = sharding.make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])
    with jax.set_mesh(mesh):
        abstract = step.abstract_state(objective, config, mesh)
    rng = np.random.default_rng(0)

    def draw(leaf):
        return jax.device_put(rng.integers(0, 99, leaf.shape).astype(leaf.dtype), leaf.sharding)

    return jax.tree.map(draw, abstract), abstract


@pytest.mark.parametrize(("saved", "restored"), PAIRS)
def test_restore_on_another_mesh_is_bit_exact(saved, restored, run, tmp_path):
    state, _ = state_on(saved, run)
    expected, abstract = state_on(restored, run)  # the same values, where they shall be
    saves = manager.Checkpoints(tmp_path)
    saves.save(1, {"train": state}, {})
    saves.wait()
    found = saves.restore(1, {"train": abstract})["train"]
    saves.close()
    for leaf, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)
        np.testing.assert_array_equal(leaf, wanted)
