"""Models learn what they should: a batch by heart, and a speaker from a prompt."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data_pipeline.tokens import TokenLayout, segment_tokens
from gpst_jax.config import DataConfig, GPSTConfig, RunConfig, TransformerConfig
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.gpst_sampler import Decoder, Request
from gpst_jax.objectives import GPSTObjective

GREEDY = SamplingConfig(top_k=1)
KEY = jax.random.key(0)


def _objective(layout, *, rows, sequence_length, frame_budget, **model):
    positions = "running" if model.get("block") == "paper" else "time"
    fields = {"batch_size": rows, "sequence_length": sequence_length, "frame_budget": frame_budget}
    data = DataConfig(**fields, positions=positions, crop_seconds=1.0)
    nets = TransformerConfig(32, 2, 4, 64), TransformerConfig(16, 2, 2, 32)
    config = GPSTConfig(*nets, max_positions=512, **model)
    return GPSTObjective(RunConfig(name="toy", model=config, data=data), layout)


def _train(objective, params, batches, learning_rate, total_steps):
    """One Adam step per batch (leading axis): final parameters and the metrics of every step."""
    steps = len(batches["tokens"])
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, total_steps, alpha=0.05))

    def step(carry, inputs):
        params, state = carry
        batch, key = inputs
        weights = objective.weights(batch)
        gradient, metrics = jax.grad(
            lambda p: objective.loss(p, batch, key, weights, True), has_aux=True
        )(params)
        updates, state = optimizer.update(gradient, state)
        means = {name: total / count for name, (total, count) in metrics.items()}
        return (optax.apply_updates(params, updates), state), means

    @jax.jit
    def run(params, batches):
        keys = jax.random.split(KEY, steps)
        (params, _), metrics = jax.lax.scan(step, (params, optimizer.init(params)), (batches, keys))
        return params, metrics

    return run(params, batches)


# A batch by heart

LAYOUT = TokenLayout(num_units=11, num_codebooks=3, codebook_size=5, unit_rate=50, frame_rate=75)


@pytest.mark.parametrize("block", ["modern", pytest.param("paper", marks=pytest.mark.slow)])
def test_one_batch_is_learnt_by_heart(block, pack_rows, random_part, random_params):
    """Both streams below 0.1 nats, and greedy decoding gives the training codes back."""
    rng = np.random.default_rng(0)
    parts = [random_part(LAYOUT, rng, 18, 27) for _ in range(3)]
    objective = _objective(LAYOUT, rows=2, sequence_length=96, frame_budget=56, block=block)
    positions = objective.config.data.positions
    segments = [segment_tokens(LAYOUT, [part], positions=positions) for part in parts]
    batch = pack_rows([segments[:2], segments[2:]], 96, 56)
    steps = 150
    batches = {name: np.broadcast_to(v, (steps, *v.shape)) for name, v in batch.items()}
    params = random_params(objective.model_config, LAYOUT)
    params, metrics = _train(objective, params, batches, 1e-2, steps)
    assert metrics["nll_semantic"][0] > 1
    assert metrics["nll_acoustic"][0] > 1
    assert metrics["nll_semantic"][-1] < 0.1
    assert metrics["nll_acoustic"][-1] < 0.1

    requests = [
        Request(units, np.zeros((3, 0), int), max_frames=30, item=i)
        for i, (units, _) in enumerate(parts)
    ]
    decoder = Decoder(objective.model_config, LAYOUT, params, positions)
    for (_, codes), result in zip(parts, decoder.decode(requests, acoustic=GREEDY), strict=True):
        np.testing.assert_array_equal(result.codes, codes)
        assert result.frames_ended


# A speaker from a prompt

SPEAKERS, UNITS = 4, 6
TOY_STEPS = 500
SILENCE = UNITS  # a unit of its own
TOY = TokenLayout(UNITS + 1, 2, SPEAKERS * UNITS + 1, unit_rate=50, frame_rate=50)


def _speak(rng, speaker, length):
    """Random units and the codes of a speaker, who shifts the codes that all speakers share."""
    units = rng.integers(UNITS, size=length)
    codes = np.stack([units, (units + 1) % UNITS]) + speaker * UNITS
    return units, codes


_SILENCE = np.array([SILENCE]), np.full((2, 1), SPEAKERS * UNITS)


@pytest.fixture(scope="module")
def corpus(pack_rows):
    """Batches of joined pairs: an utterance, silence, another one of the same speaker."""
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(TOY_STEPS):
        rows = []
        for _ in range(16):
            speaker = rng.integers(SPEAKERS)
            parts = [_speak(rng, speaker, 5), _SILENCE, _speak(rng, speaker, 6)]
            rows.append([segment_tokens(TOY, parts)])
        batches.append(pack_rows(rows, 26, 13))
    return jax.tree.map(lambda *arrays: np.stack(arrays), *batches)


def _toy_objective(**model):
    return _objective(TOY, rows=16, sequence_length=26, frame_budget=13, **model)


@pytest.fixture(scope="module")
def trained(corpus, random_params):
    """A float32 model trained on the corpus: its objective, parameters and loss curves."""
    objective = _toy_objective()
    params = random_params(objective.model_config, TOY)
    return objective, *_train(objective, params, corpus, 5e-3, TOY_STEPS)


def _shift_of(codes):
    """The speaker that most codes belong to."""
    return np.bincount(np.minimum(codes // UNITS, SPEAKERS).ravel()).argmax()


def test_a_prompt_fixes_the_speaker(trained):
    """Transfer speaks with the shift of the prompt, decoding without one does so by chance."""
    objective, params, _ = trained
    decoder = Decoder(objective.model_config, TOY, params, "time")
    rng = np.random.default_rng(1)
    transfer, without, speakers, targets = [], [], [], []
    for item in range(64):
        speaker = int(rng.integers(SPEAKERS))
        prompt = _speak(rng, speaker, 5)
        target = rng.integers(UNITS, size=6)
        units = np.concatenate([prompt[0], _SILENCE[0], target])
        codes = np.concatenate([prompt[1], _SILENCE[1]], axis=1)
        limits = {"min_frames": 6, "max_frames": 6, "item": item}
        transfer.append(Request(units, codes, part_lengths=[(5, 5), (1, 1), (6, 6)], **limits))
        without.append(Request(target, np.zeros((2, 0), int), **limits))
        speakers.append(speaker)
        targets.append(target)
    speakers = np.array(speakers)
    got = decoder.decode(transfer, acoustic=GREEDY)
    hits = np.mean([_shift_of(r.codes) for r in got] == speakers)
    chance = np.mean([_shift_of(r.codes) for r in decoder.decode(without)] == speakers)
    content = np.mean([r.codes[0] % UNITS == t for r, t in zip(got, targets, strict=True)])
    assert hits > 0.9
    assert chance < 0.5  # a quarter and noise
    assert content > 0.5  # the words are those of the target; chance is a sixth


def test_bfloat16_learns_like_float32(trained, corpus, random_params):
    """The same start and batches: curves within 0.02 nats, 0.01 on average, while they fall."""
    steps = 60
    objective = _toy_objective(dtype="bfloat16")
    params = random_params(objective.model_config, TOY)
    first = {name: value[:steps] for name, value in corpus.items()}
    params, low = _train(objective, params, first, 5e-3, TOY_STEPS)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    for name in ("nll_semantic", "nll_acoustic"):
        curve, reference = np.asarray(low[name]), np.asarray(trained[2][name][:steps])
        assert reference[-5:].mean() < reference[:5].mean() - 0.5
        np.testing.assert_allclose(curve, reference, rtol=0, atol=0.02)
        assert np.abs(curve - reference).mean() < 0.01
        assert np.abs(curve - reference).max() > 0  # another precision indeed
