"""Previews: sampling from parameters as they lie in training."""

import jax
import numpy as np
import pytest
import stored_model

from gpst_jax.config import MeshConfig
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.gpst_sampler import Decoder, Request
from gpst_jax.parallel import sharding
from gpst_jax.training import preview

MESHES = [(1, 8, 1), (2, 2, 2), (1, 1, 8)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("dataset")
    spec = stored_model.make_dataset(directory, 3)
    config = stored_model.make_config(directory)
    return config, spec.layout(), stored_model.random_params(config, spec)


def decode(run, params):
    config, layout, _ = run
    rng = np.random.default_rng(0)
    requests = [
        Request(
            units=rng.integers(layout.num_units, size=count),
            codes=np.zeros((layout.num_codebooks, 0), int),
            max_units=4,
            min_frames=8,
            max_frames=12,
            item=count,
        )
        for count in (5, 9)
    ]
    decoder = Decoder(config.model, layout, params, config.data.positions)
    return decoder.decode(requests, seed=7, acoustic=SamplingConfig(temperature=0.7))


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_sharded_parameters_sound_like_whole_ones(run, sizes):
    expected = decode(run, run[2])
    mesh = sharding.make_mesh(MeshConfig(*sizes))
    with jax.set_mesh(mesh):
        params = jax.device_put(run[2], sharding.parameter_shardings(mesh, run[2]))
        found = decode(run, params)
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(params))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours.units, theirs.units)
        np.testing.assert_array_equal(ours.codes, theirs.codes)
        assert ours.log_prob_frames == pytest.approx(theirs.log_prob_frames, abs=1e-3)


def test_entropy_of_codes():
    assert preview.entropy_bits(np.array([3, 3, 3, 3])) == 0
    assert preview.entropy_bits(np.array([0, 1, 2, 3])) == pytest.approx(2)
    assert preview.entropy_bits(np.array([], int)) == 0
