"""SoundStorm: masking, loss, and sampling that never changes known codes."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_frames
from toy_frames import FRAMES, LAYOUT, ROWS

from gpst_jax.config import ConfigError
from gpst_jax.generation.frame_batches import FrameRequest, frame_keys
from gpst_jax.generation.soundstorm_sampler import (
    SoundStormSampler,
    SoundStormSettings,
    fill,
    masked_count,
)
from gpst_jax.models import soundstorm
from gpst_jax.objectives.soundstorm import select_frames

KEY, MASK = jax.random.key(4), 16


@functools.cache
def _model(semantics="codebook"):
    objective = toy_frames.soundstorm(semantics=semantics)
    return objective, toy_frames.random_params(objective)


def test_higher_levels_are_masked_and_lower_ones_and_the_prompt_are_not():
    rng = np.random.default_rng(0)
    codes = rng.integers(16, size=(2, 6, 3))
    level, prompt = np.array([0, 1]), np.arange(6)[None] < np.array([[2], [0]])
    selected = ~prompt & (rng.uniform(size=(2, 6)) < 0.5)
    found = np.asarray(soundstorm.mask_codes(codes, level, selected, prompt, MASK))
    for row in range(2):
        for q in range(3):
            hidden = found[row, :, q] == MASK
            expected = selected[row] if q == level[row] else ~prompt[row] & (q > level[row])
            np.testing.assert_array_equal(hidden, expected)
            np.testing.assert_array_equal(found[row, ~hidden, q], codes[row, ~hidden, q])


def test_a_fraction_of_the_eligible_frames_is_selected():
    eligible = np.arange(20)[None] >= np.array([[0], [5], [19], [20]])
    share = jnp.array([0.5, 0.2, 0.0, 0.7])
    found = np.asarray(select_frames(jnp.asarray(eligible), share, KEY))
    assert not (found & ~eligible).any()
    np.testing.assert_array_equal(found.sum(axis=1), [10, 3, 1, 0])
    other = np.asarray(select_frames(jnp.asarray(eligible), share, jax.random.key(0)))
    assert (found[0] != other[0]).any()


def _loss(objective, params, batch, key=KEY, train=False):
    return objective.loss(params, batch, key, objective.weights(batch), train)


def test_loss_does_not_depend_on_higher_levels_padding_or_clean_targets():
    objective, params = _model("table")
    assert objective.num_levels == 3
    run = jax.jit(functools.partial(_loss, objective, train=False))
    batch = toy_frames.batch()
    loss, metrics = run(params, batch)
    valid = batch["segment_ids"] > 0
    prompt = np.asarray(objective.sample_prompts(jnp.asarray(valid), KEY, False))
    codes = batch["codes"].copy()
    for row in range(ROWS):
        level = row % 3
        codes[row, ~prompt[row], level + 1 :] = 0
    codes[~valid] = 5
    assert run(params, batch | {"codes": codes})[0] == pytest.approx(float(loss), rel=1e-6)
    changed = batch["codes"].copy()
    changed[1, :, 0] = (changed[1, :, 0] + 1) % 16  # below the level of row 1: seen
    assert run(params, batch | {"codes": changed})[0] != pytest.approx(float(loss), rel=1e-4)
    assert set(metrics) == {"nll_q0", "nll_q1", "nll_q2", "nll"}
    assert sum(metrics[f"nll_q{q}"][1] for q in range(3)) == metrics["nll"][1]
    assert metrics["nll"][0] / metrics["nll"][1] == pytest.approx(float(loss), rel=1e-6)


@pytest.mark.parametrize("semantics", ["codebook", "table"])
def test_every_parameter_gets_a_gradient_in_some_steps(semantics):
    objective, params = _model(semantics)
    names = {"codebook": {"nll_q1", "nll_q2"}, "table": {"nll_q0", "nll_q1", "nll_q2"}}[semantics]

    def loss(params, key):
        return _loss(objective, params, toy_frames.batch(), key, True)

    step = jax.jit(jax.grad(loss, has_aux=True))
    total = None
    for seed in range(3):
        gradients, metrics = step(params, jax.random.key(seed))
        assert set(metrics) == names | {"nll"}
        total = gradients if total is None else jax.tree.map(jnp.add, total, gradients)
    for path, leaf in jax.tree_util.tree_leaves_with_path(total):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0, path


def test_tables_are_initialised_from_the_codec():
    net = toy_frames.TransformerConfig(toy_frames.WIDTH, 1, 2, 16)
    objective = toy_frames.soundstorm(net)
    params = jax.jit(objective.init)(KEY)
    books = toy_frames.codebooks()
    tables = params["code_embed"]["embedding"].reshape(2, 17, -1)
    np.testing.assert_array_equal(tables[:, 16], 0)
    for level in range(2):
        expected = books[level + 1] - books[level + 1].mean(axis=0)[None]
        ratio = tables[level, :16] / expected
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-3)
    assert params["semantic_embed"]["embedding"].shape == (LAYOUT.num_units, toy_frames.WIDTH)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_iterations_follow_the_schedule_and_never_change_known_codes(temperature):
    steps, target = 5, np.arange(FRAMES)[None] >= np.array([[0], [6], [18]])
    logits = 3 * jax.random.normal(KEY, (3, FRAMES, 16))
    ids = np.where(target, MASK, 3)
    settings = SoundStormSettings(steps, temperature)
    keys = frame_keys(0, jnp.arange(3), FRAMES)
    final, rounds = fill(lambda ids: logits, ids, target, keys, MASK, settings)
    rounds = np.asarray(rounds)
    total = target.sum(axis=1)
    for done in range(1, steps + 1):
        hidden = (rounds[done - 1] == MASK).sum(axis=1)
        np.testing.assert_array_equal(hidden, masked_count(total, done, steps))
        assert (np.diff(np.concatenate([[ids], rounds[:done]]), axis=0)[:, ~target] == 0).all()
    for before, after in itertools.pairwise(rounds):
        np.testing.assert_array_equal(after[before != MASK], before[before != MASK])
    assert not (np.asarray(final) == MASK).any()
    top = np.asarray(jax.lax.top_k(logits, 5)[1])
    assert (np.asarray(final)[..., None] == top).any(axis=-1)[target].all()
    if temperature == 0:
        best = np.asarray(logits.argmax(axis=-1))
        np.testing.assert_array_equal(np.asarray(final)[target], best[target])


def test_schedule_is_a_cosine_that_ends_at_nothing():
    counts = [int(masked_count(jnp.int32(100), done, 8)) for done in range(9)]
    assert counts[0] == 100
    assert counts[-1] == 0
    assert counts == sorted(counts, reverse=True)
    assert counts[4] == int(100 * np.cos(np.pi / 4))
    assert [int(masked_count(jnp.int32(2), done, 8)) for done in (1, 2, 8)] == [1, 0, 0]


@pytest.mark.parametrize("semantics", ["codebook", "table"])
def test_samples(semantics):
    objective, params = _model(semantics)
    sampler = SoundStormSampler(objective.model_config, LAYOUT, params, SoundStormSettings(steps=3))
    assert sampler.evaluations == (4 if semantics == "codebook" else 5)
    rng = np.random.default_rng(3)
    requests = [
        FrameRequest(
            rng.integers(LAYOUT.num_units, size=frames),
            rng.integers(LAYOUT.num_units, size=(3, prompt)),
            item=index,
        )
        for index, (frames, prompt) in enumerate([(6, 4), (9, 0)])
    ]
    found = sampler.sample(requests)
    assert [codes.shape for codes in found] == [(3, 6), (3, 9)]
    assert all(0 <= codes.min() <= codes.max() < 16 for codes in found)
    if semantics == "codebook":
        np.testing.assert_array_equal(found[0][0], requests[0].units)
    again = sampler.sample(requests[::-1])[::-1]
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="top_share"):
        SoundStormSettings(top_share=0.0)
