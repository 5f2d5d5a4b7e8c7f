"""Adapters: no change at initialisation, only they are trained, and merging is exact."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_run import ToyLoader, ToyObjective, toy_config

from gpst_jax.config import ConfigError
from gpst_jax.models import lora
from gpst_jax.models.lora import LoraConfig
from gpst_jax.objectives.lora import LoraObjective
from gpst_jax.parallel import sharding
from gpst_jax.training.step import init_state, make_train_step

CONFIG = LoraConfig(rank=2, alpha=3.0, targets=(r"layers/mlp/\w+/kernel$", r"head/kernel$"))


@pytest.fixture
def objective():
    return LoraObjective(ToyObjective(), CONFIG)


@pytest.fixture
def params(objective):
    return objective.init(jax.random.key(0))


@pytest.fixture
def trained(params):
    """The same with adapters that are not zero."""
    rng = np.random.default_rng(0)
    noisy = jax.tree.map(lambda leaf: jnp.float32(rng.normal(size=leaf.shape)), params["lora"])
    return params | {"lora": noisy}


@pytest.fixture
def batch():
    return next(ToyLoader())


def _loss(objective, params, batch, train=False):
    return objective.loss(params, batch, jax.random.key(1), objective.weights(batch), train)[0]


def test_fresh_adapters_change_nothing(objective, params, batch):
    alone = _loss(objective.objective, params["base"], batch)
    assert _loss(objective, params, batch) == alone
    merged = lora.merge(params, CONFIG)
    jax.tree.map(np.testing.assert_array_equal, merged, params["base"])


def test_adapters_have_the_shapes_of_their_matrices(params):
    shapes = jax.tree.map(jnp.shape, params["lora"])
    up = shapes["global"]["layers"]["mlp"]["up"]["kernel"]
    assert up == {"a": (2, 8, 2), "b": (2, 2, 16)}
    assert shapes["semantic_head"]["kernel"] == {"a": (8, 2), "b": (2, 16)}
    assert set(shapes["global"]) == {"layers"}  # not the embedding


def test_merged_equals_unmerged(objective, trained, batch):
    """The product is applied to activations here, as the definition has it."""
    base, adapters = trained["base"], trained["lora"]

    def dense(x, kernel, adapter):
        return x @ kernel + CONFIG.alpha / CONFIG.rank * (x @ adapter["a"]) @ adapter["b"]

    x = base["global"]["embed"]["embedding"][batch["tokens"]]
    layers, below = base["global"]["layers"], adapters["global"]["layers"]["mlp"]
    for i in range(2):
        part = {
            name: jax.tree.map(lambda leaf, i=i: leaf[i], below[name]["kernel"]) for name in below
        }
        inner = x * layers["mlp_norm"]["scale"][i][None, None]
        inner = jax.nn.gelu(dense(inner, layers["mlp"]["up"]["kernel"][i], part["up"]))
        x = x + dense(inner, layers["mlp"]["down"]["kernel"][i], part["down"])
    logits = dense(x, base["semantic_head"]["kernel"], adapters["semantic_head"]["kernel"])
    merged = lora.merged_params(trained, CONFIG)
    nll = -np.take_along_axis(
        np.asarray(jax.nn.log_softmax(logits)), np.maximum(batch["targets"], 0)[..., None], -1
    )[..., 0]
    mask = batch["targets"] >= 0
    expected = nll[mask].mean()
    np.testing.assert_allclose(_loss(objective.objective, merged, batch), expected, rtol=1e-5)
    np.testing.assert_allclose(_loss(objective, trained, batch), expected, rtol=1e-5)
    assert abs(expected - _loss(objective.objective, base, batch)) > 0.1


def test_only_adapters_and_what_is_named_learn(batch):
    config = dataclasses.replace(CONFIG, trained=("embed/embedding$",))
    objective, run = LoraObjective(ToyObjective(), config), toy_config()
    mesh = sharding.make_mesh(run.mesh, jax.devices()[:1])
    loader = ToyLoader()
    with jax.set_mesh(mesh):
        state = init_state(objective, run, mesh)
        before = jax.tree.map(np.asarray, state.params)
        step = make_train_step(objective, run, mesh)
        losses = []
        for batch in itertools.islice(loader, 30):
            state, report = step(state, batch)
            losses.append(float(report.pairs["loss"][0]))
    after = jax.tree.map(np.asarray, state.params)
    for path, old in jax.tree.leaves_with_path(before):
        name = sharding.path_string(path)
        new = after
        for key in path:
            new = new[key.key]
        learns = name.startswith("lora/") or name == "base/global/embed/embedding"
        assert np.array_equal(old, new) != learns, name
    assert np.mean(losses[-5:]) < losses[0] - 0.1
    moments = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state))
    whole = sum(leaf.size for leaf in jax.tree.leaves(before["base"]))
    assert moments < 2 * whole  # none for the frozen ones


def test_dropout_acts_in_training_only(trained, batch):
    config = dataclasses.replace(CONFIG, dropout=0.5)
    objective = LoraObjective(ToyObjective(), config)
    still = _loss(objective, trained, batch)
    assert still == _loss(LoraObjective(ToyObjective(), CONFIG), trained, batch)
    assert _loss(objective, trained, batch, train=True) != still
    # On average a dropped input counts as often as it is scaled up.
    keys = jax.random.split(jax.random.key(0), 4000)
    mean = jax.vmap(lambda key: lora.merge(trained, config, key)["semantic_head"]["kernel"])(keys)
    expected = lora.merge(trained, config)["semantic_head"]["kernel"]
    np.testing.assert_allclose(mean.mean(axis=0), expected, atol=0.25)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ("nowhere",)}, "'nowhere' matches no parameter"),
        ({"trained": ("nowhere",)}, "'nowhere' matches no parameter"),
        ({"targets": ("(",)}, "no valid pattern"),
        ({"rank": 0}, "rank must be positive"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        LoraObjective(ToyObjective(), dataclasses.replace(CONFIG, **changes)).init(
            jax.random.key(0)
        )


def test_a_vector_is_refused():
    config = LoraConfig(targets=("final_norm/scale",))
    with pytest.raises(ConfigError, match="not a matrix"):
        lora.init_adapters({"final_norm": {"scale": jnp.ones(4)}}, config, jax.random.key(0))
