"""Warm starts: exactly the given parameters, read once, or a clear refusal."""

import types

import jax
import numpy as np
import pytest
from toy_run import ToyLoader, ToyObjective, compile_once, toy_config, with_train  # noqa: F401

from gpst_jax.checkpoints import manager
from gpst_jax.checkpoints.record import CheckpointError
from gpst_jax.models import lora
from gpst_jax.models.lora import LoraConfig
from gpst_jax.objectives.lora import LoraObjective
from gpst_jax.parallel import sharding
from gpst_jax.training.loop import train
from gpst_jax.training.step import init_state
from gpst_jax.warm_start import arrays
from gpst_jax.warm_start.finetuning import with_adapters

pytestmark = pytest.mark.usefixtures("compile_once")

DATASET = {"fingerprint": "f"}
CONFIG = LoraConfig(rank=2, targets=(r"layers/mlp/\w+/kernel$",))


class FakeSource:
    """A source of arrays in memory."""

    def __init__(self, params):
        leaves = jax.tree.leaves_with_path(params)
        self.arrays = {sharding.path_string(path): np.asarray(leaf) for path, leaf in leaves}
        self.description = types.SimpleNamespace(config=types.SimpleNamespace(name="given"))

    def shapes(self):
        return {path: jax.ShapeDtypeStruct(a.shape, a.dtype) for path, a in self.arrays.items()}

    def stream(self, path, budget):
        yield 0, self.arrays[path]


@pytest.fixture
def given():
    return jax.tree.map(np.asarray, ToyObjective().init(jax.random.key(9)))


def _train(workdir, objective, initial, steps):
    return train(
        with_train(toy_config(), steps=steps),
        objective,
        lambda split: ToyLoader() if split == "train" else None,
        workdir,
        dataset=DATASET,
        initial=initial,
        devices=jax.devices()[:1],
    )


def test_a_run_starts_from_the_given_values_once(given, tmp_path):
    calls = []
    begin = arrays.from_source(FakeSource(given))

    def initial(abstract):
        calls.append(abstract)
        return begin(abstract)

    first = _train(tmp_path / "run", ToyObjective(), initial, 1)
    fresh = _train(tmp_path / "fresh", ToyObjective(), None, 1)
    assert first.final["train/loss"] != fresh.final["train/loss"]
    after = manager.load_params(tmp_path / "run").params
    step = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), after, given)
    assert 0 < max(jax.tree.leaves(step)) < 0.02  # one update from the given values
    _train(tmp_path / "run", ToyObjective(), initial, 2)
    assert len(calls) == 1  # a resumed run reads its own checkpoint


def test_ema_and_adapters_start_from_them(given):
    objective = LoraObjective(ToyObjective(), CONFIG)
    config = with_train(toy_config(), ema_decay=0.9)
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    initial = with_adapters(arrays.from_source(FakeSource(given)), CONFIG, seed=1)
    with jax.set_mesh(mesh):
        state = init_state(objective, config, mesh, initial)
    jax.tree.map(np.testing.assert_array_equal, state.params["base"], given)
    jax.tree.map(np.testing.assert_array_equal, state.ema, state.params)
    merged = lora.merge(state.params, CONFIG)
    jax.tree.map(np.testing.assert_array_equal, merged, given)
    a = state.params["lora"]["global"]["layers"]["mlp"]["up"]["kernel"]["a"]
    assert np.abs(a).max() > 0


def test_other_arrays_are_refused_by_name(given):
    config = toy_config()
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])

    def begin(params, **options):
        initial = arrays.from_source(FakeSource(params), **options)
        with jax.set_mesh(mesh):
            return init_state(ToyObjective(), config, mesh, initial)

    less = {name: value for name, value in given.items() if name != "semantic_head"}
    with pytest.raises(CheckpointError, match="the model lacks semantic_head/kernel"):
        begin(less)
    with pytest.raises(CheckpointError, match="only the model has more"):
        begin(given | {"more": np.zeros(1)})
    narrow = given | {"semantic_head": {"kernel": given["semantic_head"]["kernel"][:, :10]}}
    with pytest.raises(CheckpointError, match=r"semantic_head/kernel is \(8, 10\) there"):
        begin(narrow)

    def pad(path, array, shape):
        assert (array.shape == shape) == (path != "semantic_head/kernel")
        return np.pad(array, [(0, to - at) for at, to in zip(array.shape, shape, strict=True)])

    state = begin(narrow, replace=pad)
    assert not state.params["semantic_head"]["kernel"][:, 10:].any()
