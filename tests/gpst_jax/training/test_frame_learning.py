"""Flow matching and SoundStorm learn a toy voice: the units say what, the prompt says who speaks.

A frame is the vector of its unit plus the offset of its speaker; a speaker is one of the codes of
the second codebook, the same in all frames of a row. Units stand well apart, measured in widths of
the noise: where they do not, the noise of the semantic prior hides which one was meant, and a
network that is told its units does better.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data_pipeline.tokens import TokenLayout
from gpst_jax.config import DataConfig, FlowConfig, RunConfig, SoundStormConfig, TransformerConfig
from gpst_jax.generation.flow_sampler import FlowRequest, FlowSampler, FlowSettings
from gpst_jax.generation.soundstorm_sampler import SoundStormSampler, SoundStormSettings
from gpst_jax.objectives import FlowObjective, SoundStormObjective

pytestmark = pytest.mark.slow

UNITS, SPEAKERS, WIDTH, ROWS, FRAMES = 8, 4, 6, 16, 24
LAYOUT = TokenLayout(UNITS, 2, UNITS, 50, 50)
STEPS = 500


def _codebooks():
    books = np.random.default_rng(0).normal(size=(2, UNITS, WIDTH)).astype(np.float32)
    return books * np.array([3.0, 1.0], np.float32)[:, None, None]


def _batch(key, told=True):
    """Rows of random units, one speaker each; without `told` the units say nothing."""
    unit_key, speaker_key = jax.random.split(key)
    units = jax.random.randint(unit_key, (ROWS, FRAMES), 0, UNITS)
    speakers = jax.random.randint(speaker_key, (ROWS, 1), 0, SPEAKERS)
    codes = jnp.stack([units, jnp.broadcast_to(speakers, units.shape)], axis=-1)
    ones = jnp.ones((ROWS, FRAMES), jnp.int32)
    return {"units": units if told else 0 * units, "codes": codes, "segment_ids": ones}


def _objective(name):
    """SoundStorm, or flow matching by the chain of that name."""
    net, prompts = TransformerConfig(48, 2, 4, 96), {"max_prompt_seconds": 0.4}
    model = (
        SoundStormConfig(net, conv_kernel=7, prompt_per_item=True, **prompts)
        if name == "soundstorm"
        else FlowConfig(net, backbone="dit", chain=name, prompt_per_item=True, **prompts)
    )
    run = RunConfig(
        "toy", model, DataConfig(batch_size=ROWS, frame_budget=FRAMES, crop_seconds=0.48)
    )
    kind = SoundStormObjective if name == "soundstorm" else FlowObjective
    return kind(run, LAYOUT, _codebooks())


@functools.cache
def _train(name, told=True):
    """A trained (objective, params)."""
    objective = _objective(name)
    params = objective.init(jax.random.key(0))
    schedule = optax.cosine_decay_schedule(5e-3, STEPS)
    tx = optax.multi_transform(
        {"train": optax.adam(schedule, b2=0.99), "frozen": optax.set_to_zero()},
        jax.tree.map_with_path(
            lambda path, _: (
                "train" if objective.trainable("/".join(k.key for k in path)) else "frozen"
            ),
            params,
        ),
    )

    @jax.jit
    def fit(params):
        def step(carry, index):
            params, state = carry
            key = jax.random.fold_in(jax.random.key(1), index)
            batch = _batch(key, told)
            weights = objective.weights(batch)
            gradients = jax.grad(lambda p: objective.loss(p, batch, key, weights, True)[0])(params)
            updates, state = tx.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), jnp.arange(STEPS))[0][0]

    return objective, fit(params)


def _render(chain, settings, speaker, told=True, count=8, seed=5, prompted=True):
    """Latents (count, T, D) sampled in a speaker's voice, and the units asked for."""
    objective, params = _train(chain, told)
    rng = np.random.default_rng(seed)
    units = rng.integers(UNITS, size=(count, 14))
    before = rng.integers(UNITS, size=(count, 10))
    requests = [
        FlowRequest(
            units[i] if told else 0 * units[i],
            np.stack([before[i], np.full(10, speaker)]) if prompted else None,
            (before[i] if told else 0 * before[i]) if prompted else None,
            item=i,
        )
        for i in range(count)
    ]
    sampler = FlowSampler(objective.model_config, LAYOUT, params, settings)
    return np.stack(sampler.sample(requests)), units


def _encode(latents):
    """Nearest (unit, speaker) of every frame."""
    books = _codebooks()
    pairs = books[0][:, None] + books[1][None, :SPEAKERS]
    distance = np.square(latents[..., None, None, :] - pairs).sum(axis=-1)
    best = distance.reshape(*latents.shape[:-1], -1).argmin(axis=-1)
    return best // SPEAKERS, best % SPEAKERS


def _error(latents, units, speaker):
    expected = _codebooks()[0][units] + _codebooks()[1][speaker]
    return np.linalg.norm(latents - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("chain", ["implicit", "explicit"])
def test_units_say_what_and_the_prompt_says_who(chain):
    heard = []
    for speaker in (0, 2):
        latents, units = _render(chain, FlowSettings("midpoint", 8), speaker)
        said, who = _encode(latents)
        assert np.mean(said == units) > 0.95
        assert np.mean(who == speaker) > 0.9
        assert _error(latents, units, speaker) < 0.2
        heard.append(said)
    assert np.mean(heard[0] == heard[1]) > 0.9


def test_soundstorm_repeats_the_voice_of_the_prompt():
    objective, params = _train("soundstorm")
    rng = np.random.default_rng(7)
    speakers = np.arange(8) % SPEAKERS
    requests = [
        FlowRequest(
            rng.integers(UNITS, size=14),
            np.stack([rng.integers(UNITS, size=10), np.full(10, speaker)]),
            item=item,
        )
        for item, speaker in enumerate(speakers)
    ]
    arguments = (objective.model_config, LAYOUT, params)
    for settings in (SoundStormSettings(4), SoundStormSettings(1, temperature=0.0)):
        found = np.stack(SoundStormSampler(*arguments, settings).sample(requests))
        np.testing.assert_array_equal(found[:, 0], [request.units for request in requests])
        assert np.mean(found[:, 1] == speakers[:, None]) > 0.9
    # Nobody is named: the rounds agree on a speaker among themselves, one draw at once need not.
    alone = [FlowRequest(rng.integers(UNITS, size=14), item=item) for item in range(32)]
    found = np.stack(SoundStormSampler(*arguments, SoundStormSettings(8)).sample(alone))[:, 1]
    agree = np.mean([np.bincount(row).max() / len(row) for row in found])
    assert agree > 0.8
    assert len({np.bincount(row).argmax() for row in found}) > 1


def test_without_a_prompt_voices_vary_and_words_do_not():
    latents, units = _render("implicit", FlowSettings("midpoint", 8), 0, count=24, prompted=False)
    said, who = _encode(latents)
    assert np.mean(said == units) > 0.9
    assert len(np.unique([np.bincount(row).argmax() for row in who])) > 1


def test_the_semantic_prior_carries_the_semantics():
    """Equal steps and sizes, two evaluations: the prior is far better than no semantics at all.

    Being told the units is the third case; which of the two does better depends on the noise.
    """
    settings, errors = FlowSettings("euler", 2), {}
    for name, chain, told in (
        ("prior", "implicit", True),
        ("told", "plain", True),
        ("neither", "plain", False),
    ):
        latents, units = _render(chain, settings, 1, told)
        errors[name] = _error(latents, units, 1)
    print({name: round(float(error), 3) for name, error in errors.items()})
    assert errors["prior"] < 0.5 * errors["neither"]
    assert errors["told"] < 0.5 * errors["neither"]
