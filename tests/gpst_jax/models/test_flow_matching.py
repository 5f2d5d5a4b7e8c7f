"""Flow matching: paths and chains, conditioning, loss, and samples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_frames
from toy_frames import FRAMES, LAYOUT, ROWS, WIDTH

from gpst_jax.config import ConfigError, FlowConfig
from gpst_jax.generation import ode_solvers
from gpst_jax.generation.flow_sampler import FlowRequest, FlowSampler, FlowSettings
from gpst_jax.models import flow_matching

CHAINS = ("implicit", "plain", "explicit")
KEY = jax.random.key(3)


@functools.cache
def _model(chain, **model):
    objective = toy_frames.flow(chain=chain, backbone="conformer", **model)
    params = toy_frames.random_params(objective)
    return objective, params


@functools.cache
def _draws():
    """x1, e and noise (B, T, D) as a model of the toy codec has them."""
    objective, params = _model("implicit")
    model, batch = objective.model(params), toy_frames.batch()
    noise = jax.random.normal(KEY, (ROWS, FRAMES, WIDTH))
    return model.latents(batch["codes"]), model.semantics(batch["units"]), noise


def _endpoints(chain):
    objective, params = _model(chain)
    return objective.model(params).endpoints(*_draws())


def test_latents_are_sums_of_code_vectors():
    objective, params = _model("implicit")
    model, batch, books = objective.model(params), toy_frames.batch(), toy_frames.codebooks()
    expected = sum(books[q][batch["codes"][..., q]] for q in range(3))
    np.testing.assert_allclose(model.to_codec(_draws()[0]), expected, atol=1e-5)
    rest = _draws()[0] - _draws()[1]
    expected = sum(books[q][batch["codes"][..., q]] for q in (1, 2))
    scale = params["latent_scale"]
    centre = books[1:].mean(axis=1).sum(axis=0)
    np.testing.assert_allclose(rest * scale, expected - centre[None, None], atol=1e-5)
    everything = np.stack([books[1][i] + books[2][j] for i in range(16) for j in range(16)])
    everything = (everything - centre[None]) / scale
    assert everything.mean() == pytest.approx(0, abs=1e-4)
    assert everything.var(axis=0).mean() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("semantics", ["codebook", "table"])
def test_statistics_of_recorded_codes_normalise_them(semantics):
    """With codes that leave entries unused, one of which determines another."""
    rng, books = np.random.default_rng(6), toy_frames.codebooks()
    codes = rng.integers(5, size=(400, 3))
    codes[:, 2] = codes[:, 1]
    shift, scale = flow_matching.latent_statistics(books, semantics, LAYOUT.num_units, codes)
    vectors = np.stack([books[q][codes[:, q]] for q in range(3)])
    np.testing.assert_allclose(shift, [vectors[0].mean(0), vectors.sum(0).mean(0)], atol=1e-5)
    modelled = vectors[1:] if semantics == "codebook" else vectors
    assert modelled.sum(axis=0).var(axis=0).mean() / scale**2 == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_paths_run_between_their_ends_at_constant_velocity(chain, sigma):
    start, end = _endpoints(chain)
    at = functools.partial(flow_matching.path_point, start, end, sigma=sigma)
    np.testing.assert_allclose(at(0.0), start, atol=1e-6)
    np.testing.assert_allclose(at(1.0), end + sigma * start, atol=1e-5)
    velocity = flow_matching.path_velocity(start, end, sigma)
    for t in (0.1, 0.8):
        slope = (at(t + 0.05) - at(t - 0.05)) / 0.1
        np.testing.assert_allclose(slope, velocity, atol=1e-4)


def test_semantic_prior_is_centred_at_the_semantics():
    x1, e, _ = _draws()
    noise = jax.random.normal(KEY, (4000, *e[:1, :2].shape[1:]))
    for chain, centre, width in (
        ("implicit", e[:1, :2], 1.0),
        ("implicit", e[:1, :2], 0.5),
        ("plain", 0 * e[:1, :2], 1.0),
    ):
        objective, params = _model(chain, prior_std=width)
        some = jnp.broadcast_to(e[:1, :2], noise.shape)
        start, _ = objective.model(params).endpoints(jnp.zeros_like(some), some, noise)
        np.testing.assert_allclose(start.mean(axis=0, keepdims=True), centre, atol=0.08)
        flat = np.asarray(start - centre).reshape(len(noise), -1) / width
        np.testing.assert_allclose(np.cov(flat.T), np.eye(flat.shape[1]), atol=0.1)
    assert x1.shape == e.shape


def test_implicit_and_explicit_differ_by_the_semantics_alone():
    (start, end), (other_start, other_end) = _endpoints("implicit"), _endpoints("explicit")
    e = _draws()[1]
    velocity = flow_matching.path_velocity(start, end, 0.0)
    np.testing.assert_allclose(
        velocity, flow_matching.path_velocity(other_start, other_end, 0.0), atol=1e-5
    )
    for t in (0.0, 0.4, 1.0):
        here = flow_matching.path_point(start, end, t, 0.0)
        there = flow_matching.path_point(other_start, other_end, t, 0.0)
        np.testing.assert_allclose(here, there + e, atol=1e-5)


@pytest.mark.parametrize("chain", CHAINS)
def test_the_true_velocity_leads_to_the_latents_in_one_step(chain):
    x1, e, _ = _draws()
    start, end = _endpoints(chain)
    velocity = flow_matching.path_velocity(start, end, 0.0)
    for solver, steps in (("euler", 1), ("midpoint", 3)):
        found = ode_solvers.integrate(lambda x, t: velocity, start, steps, solver)
        found = found + e if chain == "explicit" else found
        np.testing.assert_allclose(found, x1, atol=1e-5)


def test_only_predicted_frames_are_in_the_loss_and_none_in_the_context():
    prediction, target = _draws()[0], _draws()[2]
    predicted = (np.arange(FRAMES)[None] >= 5) & (toy_frames.batch()["segment_ids"] > 0)
    gradient = jax.grad(lambda p: flow_matching.squared_error(p, target, predicted)[0])(prediction)
    assert np.all(np.asarray(gradient)[~predicted] == 0)
    assert np.all(np.asarray(gradient)[predicted] != 0)
    context = flow_matching.prompt_context(prediction, predicted)
    assert np.all(np.asarray(context)[predicted] == 0)
    np.testing.assert_array_equal(context[:, :5], prediction[:, :5])
    objective, params = _model("plain")
    model, changed = objective.model(params), prediction.at[:, 5:].add(1.0)
    valid_context = flow_matching.prompt_context(changed, np.arange(FRAMES)[None] >= 5)
    t = jnp.full(ROWS, 0.5)
    inputs = [
        model.network_input(jnp.zeros_like(prediction), prediction, c, t)
        for c in (
            flow_matching.prompt_context(prediction, np.arange(FRAMES)[None] >= 5),
            valid_context,
        )
    ]
    np.testing.assert_array_equal(*inputs)


@pytest.mark.parametrize("per_item", [False, True])
def test_prompt_lengths(per_item):
    objective = toy_frames.flow(prompt_per_item=per_item, max_prompt_seconds=0.3)
    valid = jnp.asarray(toy_frames.batch()["segment_ids"] > 0)
    sample = jax.jit(jax.vmap(lambda key: objective.sample_prompts(valid, key, True)))
    lengths = np.asarray(sample(jax.random.split(KEY, 400)).sum(axis=2))
    limits = np.minimum(valid.sum(axis=1), 15) - 2
    limits = limits if per_item else np.full(ROWS, limits.min())
    np.testing.assert_array_equal(lengths.min(axis=0), 0)  # without a prompt is a case as well
    np.testing.assert_array_equal(lengths.max(axis=0), limits)
    assert (lengths == lengths[:, :1]).all() == (not per_item)
    counts = np.bincount(lengths[:, 2], minlength=limits[2] + 1)
    assert counts.min() > 0.4 * counts.mean()
    fixed = [objective.sample_prompts(valid, key, False) for key in jax.random.split(KEY)]
    np.testing.assert_array_equal(*fixed)
    empty = objective.sample_prompts(jnp.zeros((2, 5), bool), KEY, True)
    assert not empty.any()


def _loss(objective, params, batch, key=KEY, train=True):
    return objective.loss(params, batch, key, objective.weights(batch), train)[0]


def test_evaluation_is_fixed_and_padding_does_not_matter():
    objective, params = _model("plain")
    loss = jax.jit(functools.partial(_loss, objective, train=False))
    batch = toy_frames.batch()
    padding = batch["segment_ids"] == 0
    dirty = batch | {
        "units": np.where(padding, 7, batch["units"]).astype(np.int32),
        "codes": np.where(padding[..., None], 3, batch["codes"]).astype(np.int32),
    }
    first = loss(params, batch, jax.random.key(0))
    assert first == loss(params, batch, jax.random.key(1))
    assert loss(params, dirty, jax.random.key(0)) == pytest.approx(float(first), rel=1e-6)
    changed = batch | {"codes": (batch["codes"] + 1) % 12}
    assert loss(params, changed, jax.random.key(0)) != pytest.approx(float(first), rel=1e-3)


def test_losses_of_parts_add_up_to_that_of_the_batch():
    objective, params = _model("plain", prompt_per_item=True)
    batch = toy_frames.batch()
    weights = objective.weights(batch)
    loss = jax.jit(lambda rows: objective.loss(params, rows, KEY, weights, False)[0])
    halves = [{name: value[rows] for name, value in batch.items()} for rows in ([0, 1], [2, 3])]
    parts = sum(float(objective.share(half, weights)) for half in halves)
    assert parts == pytest.approx(1.0)
    assert all(float(loss(half)) > 0 for half in halves)


VARIANTS = {
    "implicit": {"chain": "implicit"},
    "plain": {"chain": "plain", "prompt_per_item": True, "guidance_drop": 0.3, "dropout": 0.1},
    "explicit": {"chain": "explicit", "sigma": 0.1},
    "hierarchical": {"chain": "plain", "semantics": "table"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains(variant):
    objective = toy_frames.flow(backbone="conformer", **VARIANTS[variant])
    params = toy_frames.random_params(objective)
    inputs = params["to_embed"]["kernel"].shape[0]
    assert inputs == (2 if variant == "implicit" else 3) * WIDTH + 1
    assert ("semantic_embed" in params) == (variant == "hierarchical")
    gradients = jax.jit(jax.grad(functools.partial(_loss, objective)))(params, toy_frames.batch())
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        name = "/".join(key.key for key in path)
        assert np.isfinite(leaf).all(), name
        if objective.trainable(name):
            assert np.abs(leaf).max() > 0, name
    frozen = {name for name in flow_matching.FROZEN if not objective.trainable(name)}
    assert frozen == {"codebooks/embedding", "latent_scale", "latent_shift"}


def test_configurations_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="plain"):
        FlowConfig(toy_frames.NET, semantics="table")
    with pytest.raises(ConfigError, match="conv_kernel"):
        FlowConfig(toy_frames.NET, conv_kernel=30)
    objective, params = _model("implicit")
    with pytest.raises(ConfigError, match="guidance_drop"):
        FlowSampler(objective.model_config, LAYOUT, params, FlowSettings(guidance=1.0))


def _requests(rng=None):
    rng = rng or np.random.default_rng(2)
    sizes = [(5, 3), (12, 0), (7, 7)]
    return [
        FlowRequest(
            rng.integers(LAYOUT.num_units, size=frames),
            rng.integers(LAYOUT.num_units, size=(3, prompt)) if prompt else None,
            item=index,
        )
        for index, (frames, prompt) in enumerate(sizes)
    ]


@functools.cache
def _sampler(chain, settings, **model):
    objective, params = _model(chain, **model)
    return FlowSampler(objective.model_config, LAYOUT, params, settings)


def test_samples_do_not_depend_on_the_batch_and_follow_the_seed():
    sampler, requests = _sampler("plain", FlowSettings("midpoint", 2)), _requests()
    assert sampler.settings.evaluations == 4
    found = sampler.sample(requests)
    assert [latents.shape for latents in found] == [(5, WIDTH), (12, WIDTH), (7, WIDTH)]
    again = sampler.sample(requests[::-1], batch_size=2)[::-1]
    for one, other in zip(found, again, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    np.testing.assert_array_equal(sampler.sample(requests)[0], found[0])
    assert np.abs(sampler.sample(requests, seed=1)[0] - found[0]).max() > 0.1


def test_compiled_sampling_equals_uncompiled_and_low_precision_drifts_little():
    settings, requests = FlowSettings("euler", 2), _requests()[:1]
    found = _sampler("explicit", settings).sample(requests)[0]
    with jax.disable_jit():
        plain = FlowSampler(*_arguments("explicit"), settings)
        np.testing.assert_allclose(plain.sample(requests)[0], found, atol=1e-4)
    low = _sampler("explicit", settings, dtype="bfloat16").sample(requests)[0]
    assert 0 < np.abs(low - found).max() < 0.1 * np.abs(found).max()


def _arguments(chain):
    objective, params = _model(chain)
    return objective.model_config, LAYOUT, params


def test_a_network_of_zero_velocity_gives_the_prior():
    """With velocity 0 a sample is its start: e + noise, or noise, where `explicit` adds e."""
    requests, found = _requests()[:1], {}
    for chain in CHAINS:
        config, layout, params = _arguments(chain)
        params = params | {"to_pred": {"kernel": jnp.zeros_like(params["to_pred"]["kernel"])}}
        sampler = FlowSampler(config, layout, params, FlowSettings("euler", 1))
        found[chain] = sampler.sample(requests)[0]
    objective, params = _model("implicit")
    e = objective.model(params).semantics(requests[0].units[None])[0] * params["latent_scale"]
    np.testing.assert_allclose(found["implicit"], found["explicit"], atol=1e-5)
    np.testing.assert_allclose(found["implicit"] - found["plain"], e, atol=1e-4)


def test_temperature_scales_the_noise():
    requests = _requests()[:1]
    cold, warm, hot = (
        _sampler("implicit", FlowSettings("euler", 1, temperature=t)) for t in (0.0, 0.5, 1.0)
    )
    np.testing.assert_array_equal(cold.sample(requests)[0], cold.sample(requests, seed=1)[0])
    assert np.abs(warm.sample(requests)[0] - hot.sample(requests)[0]).max() > 0.05
    # With zero velocity a sample is its start.
    config, layout, params = _arguments("plain")
    params = params | {"to_pred": {"kernel": jnp.zeros_like(params["to_pred"]["kernel"])}}
    starts = [
        FlowSampler(config, layout, params, FlowSettings("euler", 1, temperature=t)).sample(
            requests
        )[0]
        - np.asarray(params["latent_shift"][1])
        for t in (0.5, 1.0)
    ]
    np.testing.assert_allclose(2 * starts[0], starts[1], atol=1e-5)


def test_guidance_takes_two_evaluations_and_changes_the_result():
    plain = _sampler("plain", FlowSettings("euler", 1), guidance_drop=0.1)
    guided = _sampler("plain", FlowSettings("euler", 1, 2.0), guidance_drop=0.1)
    assert (plain.settings.evaluations, guided.settings.evaluations) == (1, 2)
    assert np.abs(plain.sample(_requests())[0] - guided.sample(_requests())[0]).max() > 0.05


def test_bad_requests_name_themselves():
    sampler = _sampler("plain", FlowSettings("euler", 1))
    good = FlowRequest(np.zeros(3, np.int32))
    with pytest.raises(ValueError, match=r"request 1: units .* 11"):
        sampler.sample([good, FlowRequest(np.array([12]))])
    with pytest.raises(ValueError, match=r"request 0.*T > 0"):
        sampler.sample([FlowRequest(np.zeros(0, np.int32))])
    with pytest.raises(ValueError, match="2 units and 4 frames"):
        sampler.sample(
            [FlowRequest(np.zeros(3, np.int32), np.zeros((3, 4), np.int32), np.zeros(2, np.int32))]
        )
