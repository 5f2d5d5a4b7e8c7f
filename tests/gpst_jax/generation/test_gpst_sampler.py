"""Cached decoding equals teacher forcing, and samples only allowed classes."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_decoder import INPUTS, LAYOUT, NETS, POSITIONS, Toy

from data_pipeline.tokens import EOS, TokenLayout
from gpst_jax.config import ConfigError, GPSTConfig
from gpst_jax.generation import sampling
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.gpst_sampler import Request
from gpst_jax.generation.patterns import hierarchical
from gpst_jax.generation.patterns.base import Model, Sizes
from gpst_jax.models import decoding, gpst

ROWS = 8  # every batch of requests has as many, so that programs are shared
LENGTH, BUDGET = 96, 48


@pytest.fixture(scope="module")
def toys(random_params):
    """Both block types."""
    return {block: Toy(block, random_params) for block in ("paper", "modern")}


@pytest.fixture(scope="module", params=["paper", "modern"])
def toy(request, toys):
    """Each block type in turn."""
    return toys[request.param]


@pytest.fixture(scope="module")
def modern(toys):
    """The modern block."""
    return toys["modern"]


@pytest.fixture(scope="module")
def requests(random_part):
    """Prompts of different lengths in both streams; half of them sample units as well."""
    rng, out = np.random.default_rng(0), []
    for i, (units, frames) in enumerate(
        [(0, 0), (1, 0), (4, 0), (9, 0), (3, 4), (7, 1), (5, 7), (12, 9)]
    ):
        given = random_part(LAYOUT, rng, units, frames)
        more = 5 + 3 * i if frames == 0 else 0
        out.append(Request(*given, max_units=min(more, 14), max_frames=7 + i, item=i))
    return out


@pytest.fixture(scope="module")
def results(toy, requests):
    """The results of each block for the requests."""
    return toy.decoder.decode(requests, seed=3)


def _whole(request, result):
    """Units and codes of the finished item."""
    units = np.concatenate([request.units, result.units])
    return units, np.concatenate([request.codes, result.codes], axis=1)


# Cached decoding equals teacher forcing


def test_prompts_of_every_length_continue_as_under_teacher_forcing(toy, pack_rows, random_part):
    """Row r prefills r + 1 positions, right-padded, and decodes the rest one by one.

    Together the rows stop within the units, at both starts, and within the frames.
    """
    units, codes = random_part(LAYOUT, np.random.default_rng(0), 5, 8)
    batch = pack_rows([[toy.segment(units, codes)]], 15, 9)
    tokens, positions, streams = (jnp.asarray(np.repeat(batch[n], 15, axis=0)) for n in INPUTS[:3])
    model, lengths = toy.model, jnp.arange(1, 16)
    want = model.hidden(tokens[:1], positions[:1], streams[:1])[0]
    weights = toy.decoder.weights.global_net
    net, block = toy.config.global_net, model.global_net.block_config

    def extend(inputs, visible, slot, cache):
        tokens, positions, streams = inputs
        x, angles = model.embed(tokens, positions, streams), model.context(positions).angles
        return decoding.extend(weights, net, block, x, angles, visible, slot, cache)

    @jax.jit
    def decode():
        cache = decoding.empty_cache(net, jnp.float32, 15, 32)
        at = jnp.arange(15)
        real = at[None] < lengths[:, None]
        prompt = jnp.where(real[..., None], tokens, 1)
        causal = (at[None] <= at[:, None])[None]
        hidden, cache = extend((prompt, positions, streams), causal, 0, cache)
        visible = jnp.zeros((15, 32), bool).at[:, :15].set(real)

        def step(carry, number):
            visible, cache = carry
            index = lengths + number
            at = jnp.minimum(index, 14)[:, None]
            ids = jnp.take_along_axis(tokens, at[..., None], axis=1)
            time, stream = (jnp.take_along_axis(x, at, axis=1) for x in (positions, streams))
            visible = visible.at[:, 15 + number].set(True)
            out, cache = extend((ids, time, stream), visible[:, None], 15 + number, cache)
            return (visible, cache), (index, out[:, 0])

        return hidden, jax.lax.scan(step, (visible, cache), jnp.arange(14))[1]

    prompt, (at, steps) = decode()
    for row in range(15):
        np.testing.assert_allclose(prompt[row, : row + 1], want[: row + 1], atol=1e-4)
        for i, out in zip(at[:, row], steps[:, row], strict=True):
            if i < 15:
                np.testing.assert_allclose(out, want[i], atol=1e-4)


def test_sampled_log_probabilities_are_those_of_teacher_forcing(toy, requests, results, pack_rows):
    """For every item the sampler's sums equal minus the unsmoothed nll of its samples."""
    items = [_whole(*pair) for pair in zip(requests, results, strict=True)]
    batch = pack_rows([[toy.segment(*item)] for item in items], LENGTH, BUDGET)
    semantic, acoustic, _, _ = map(np.asarray, toy.log_probs(batch))
    drawn_units = drawn_frames = 0
    for row, (request, result) in enumerate(zip(requests, results, strict=True)):
        first, count = len(request.units), len(result.units) + result.units_ended
        if not request.max_units:
            count = 0
        want = semantic[row, first : first + count].sum()
        assert result.log_prob_units == pytest.approx(want, abs=1e-4)
        first, count = request.codes.shape[1], result.codes.shape[1] + result.frames_ended
        want = acoustic[row, first : first + count].sum()
        assert result.log_prob_frames == pytest.approx(want, abs=1e-4)
        drawn_units, drawn_frames = drawn_units + len(result.units), drawn_frames + count
    assert drawn_units > 10
    assert drawn_frames > 20


def test_the_end_counts_in_every_codebook(toy, pack_rows):
    """Where the first sampled class is the end, all codebooks' ends are in the sum."""
    request = Request(np.array([1, 2]), np.zeros((3, 0), int), max_frames=16)
    requests = [dataclasses.replace(request, item=i) for i in range(ROWS)]
    for seed in range(20):
        results = toy.decoder.decode(requests, seed=seed)
        ended = [r for r in results if r.frames_ended and r.codes.shape[1] == 0]
        if ended:
            break
    batch = pack_rows([[toy.segment(request.units, request.codes)]], LENGTH, BUDGET)
    assert ended[0].log_prob_frames == pytest.approx(float(toy.log_probs(batch)[1][0, 0]), abs=1e-4)


def test_results_do_not_depend_on_the_batch(toy, requests, results):
    """An item in another row, beside other items, gets the same result."""
    others = [
        Request(np.arange(i), np.ones((3, i), int), max_units=3, max_frames=16, item=50 + i)
        for i in range(5)
    ]
    mixed = toy.decoder.decode([*others, requests[6], requests[2], requests[3]], seed=3)
    for got, i in zip(mixed[5:], (6, 2, 3), strict=True):
        want = results[i]
        np.testing.assert_array_equal(got.units, want.units)
        np.testing.assert_array_equal(got.codes, want.codes)
        assert got.log_prob_frames == pytest.approx(want.log_prob_frames, abs=1e-4)


def test_results_do_not_depend_on_the_batch_size(modern, requests):
    """Three at a time, in another order, the last batch padded: the same, in order."""
    done = []
    whole = modern.decoder.decode(requests, seed=3)
    split = modern.decoder.decode(requests, seed=3, batch_size=3, on_progress=done.append)
    for got, want in zip(split, whole, strict=True):
        np.testing.assert_array_equal(got.units, want.units)
        np.testing.assert_array_equal(got.codes, want.codes)
    assert done == [3, 3, 2]


def test_joined_prompts_stand_where_training_puts_them(modern, pack_rows, random_part):
    """With `part_lengths` the sampled frames are scored at the times of joined parts."""
    rng = np.random.default_rng(4)
    # Odd lengths: 3 units last 9 ticks, 5 frames 10.
    parts = [random_part(LAYOUT, rng, *n) for n in ((3, 5), (1, 1), (5, 0))]
    units = np.concatenate([part[0] for part in parts])
    codes = np.concatenate([part[1] for part in parts], axis=1)
    request = Request(units, codes, max_frames=8, part_lengths=[(3, 5), (1, 1), (5, 8)])
    requests = [dataclasses.replace(request, item=i) for i in range(ROWS)]
    results = modern.decoder.decode(requests, seed=1)
    full = [[*parts[:2], (parts[2][0], result.codes)] for result in results]
    batch = pack_rows([[modern.segment(None, None, f)] for f in full], LENGTH, BUDGET)
    acoustic = np.asarray(modern.log_probs(batch)[1])
    plain = modern.decoder.decode([dataclasses.replace(r, part_lengths=None) for r in requests])
    for row, result in enumerate(results):
        count = result.codes.shape[1] + result.frames_ended
        want = acoustic[row, 6 : 6 + count].sum()
        assert result.log_prob_frames == pytest.approx(want, abs=1e-4)
    assert any(a.log_prob_frames != b.log_prob_frames for a, b in zip(results, plain, strict=True))


def test_greedy_decoding_takes_the_best_allowed_class(modern, requests, pack_rows):
    greedy = SamplingConfig(top_k=1)
    results = modern.decoder.decode(requests, semantic=greedy, acoustic=greedy)
    items = [_whole(*pair) for pair in zip(requests, results, strict=True)]
    batch = pack_rows([[modern.segment(*item)] for item in items], LENGTH, BUDGET)
    _, _, semantic, acoustic = map(np.array, modern.log_probs(batch))
    semantic[..., [0, 1, 3]] = -np.inf
    acoustic[..., [0, 1, 3]] = -np.inf
    acoustic[:, :, 1:, EOS] = -np.inf
    for row, (request, result) in enumerate(zip(requests, results, strict=True)):
        first = len(request.units)
        best = semantic[row, first : first + len(result.units)].argmax(-1)
        np.testing.assert_array_equal(result.units, best - 4)
        first = request.codes.shape[1]
        best = acoustic[row, first : first + result.codes.shape[1]].argmax(-1)
        np.testing.assert_array_equal(result.codes, best.T - 4)
        if result.frames_ended:
            assert acoustic[row, first + result.codes.shape[1], 0].argmax() == EOS


# Probabilities


def test_probabilities_of_all_two_frame_sequences_sum_to_1(random_params):
    """All 6^4 sequences of two frames of two codebooks, special classes included."""
    layout = TokenLayout(num_units=3, num_codebooks=2, codebook_size=2)
    config = GPSTConfig(*NETS)
    model = gpst.bind(config, layout, random_params(config, layout))
    classes = np.array(list(itertools.product(range(6), repeat=4))).reshape(-1, 2, 2)
    ids = classes + np.array([0, 2])  # offsets of the two codebooks
    count = len(ids)
    tokens = np.full((count, 5, 2), 1)
    tokens[:, :2, 0] = 2, 5
    tokens[:, 2] = layout.bos_acoustic
    tokens[:, 3:] = ids + layout.semantic_vocab
    tokens = tokens[:, :4]
    positions = np.broadcast_to([0, 3, 0, 2], (count, 4))
    streams = np.broadcast_to([0, 0, 1, 1], (count, 4))

    @jax.jit
    def log_prob(tokens, ids):
        hidden = model.hidden(tokens, jnp.asarray(positions), jnp.asarray(streams))[:, 2:]
        local = model.local_hidden(hidden.reshape(count * 2, -1), ids.reshape(count * 2, 2))
        log_probs = jax.nn.log_softmax(model.acoustic_logits(local)).reshape(count, 2, 2, 6)
        return jnp.take_along_axis(log_probs, classes[..., None], axis=-1).sum((1, 2, 3))

    probabilities = np.exp(log_prob(jnp.asarray(tokens), jnp.asarray(ids)))
    assert probabilities.std() > 0.1 * probabilities.mean()
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_probabilities_of_all_unit_sequences_sum_to_1(modern):
    classes = np.array(list(itertools.product(range(LAYOUT.semantic_vocab), repeat=2)))
    tokens = np.full((len(classes), 2, 3), 1)
    tokens[:, 0, 0], tokens[:, 1, 0] = EOS, classes[:, 0]
    positions = jnp.broadcast_to(jnp.array([[0, 3]]), (len(classes), 2))

    @jax.jit
    def log_prob(tokens):
        hidden = modern.model.hidden(tokens, positions, jnp.zeros_like(positions))
        log_probs = jax.nn.log_softmax(modern.model.semantic_logits(hidden))
        return jnp.take_along_axis(log_probs, classes[..., None], axis=-1).sum((1, 2))

    assert np.exp(log_prob(jnp.asarray(tokens))).sum() == pytest.approx(1, abs=1e-5)


def _draw_frames(toy, count=256, top_k=0, may_end=True, temperature=100.0):
    """Frames (count, Q) sampled from one hidden state nearly uniformly, and which are ends."""
    hidden = jnp.broadcast_to(jax.random.normal(jax.random.key(5), (1, 32)), (count, 32))

    model = Model(toy.config, LAYOUT, toy.positions, Sizes(0, 0, 0, 0, 0))
    variant = sampling.Variant(greedy=top_k == 1, candidates=top_k)
    settings = sampling.Settings(
        jnp.full(count, temperature), jnp.full(count, top_k), jnp.ones(count)
    )

    @jax.jit
    def run(weights, hidden, may_end, keys):
        return hierarchical.sample_frame(model, weights, hidden, may_end, keys, settings, variant)

    keys = jax.random.split(jax.random.key(0), count)
    ids, end, _ = run(toy.decoder.weights, hidden, jnp.full(count, may_end), keys)
    return np.asarray(ids), np.asarray(end)


def test_special_classes_are_never_sampled(modern):
    ids, end = _draw_frames(modern)
    assert 0.08 < end.mean() < 0.27  # one class of six
    assert (ids[end] == EOS).all()
    codes = LAYOUT.ids_to_codes(ids[~end])  # refuses what is not a code of its codebook
    assert all(len(np.unique(row)) == 5 for row in codes)


def test_an_end_that_is_not_allowed_is_not_sampled(modern):
    assert not _draw_frames(modern, may_end=False)[1].any()


def test_top_k_keeps_the_best_classes(modern):
    ids, _ = _draw_frames(modern, top_k=2)
    assert len(np.unique(ids[:, 0])) == 2
    best, _ = _draw_frames(modern, count=8, top_k=1)
    assert len(np.unique(best, axis=0)) == 1
    assert best[0, 0] in ids[:, 0]


# Limits and random streams


def test_limits_are_kept(results, requests):
    for request, result in zip(requests, results, strict=True):
        assert len(result.units) <= request.max_units
        assert result.codes.shape[1] <= request.max_frames
        assert result.units_ended or len(result.units) == request.max_units
        assert result.frames_ended or result.codes.shape[1] == request.max_frames
        assert result.codes.shape[0] == 3


def test_the_shortest_length_is_kept(toy, requests):
    longer = [dataclasses.replace(r, min_frames=6, max_frames=14) for r in requests]
    free = [dataclasses.replace(r, max_frames=14) for r in requests]
    hot = SamplingConfig(temperature=20.0)  # ends are as likely as any code
    results = toy.decoder.decode(longer, acoustic=hot)
    assert all(result.codes.shape[1] >= 6 for result in results)
    assert any(r.codes.shape[1] < 6 for r in toy.decoder.decode(free, acoustic=hot))


def test_seed_and_item_fix_the_samples(modern, requests):
    same = [dataclasses.replace(requests[6], item=i // 2, min_frames=13) for i in range(ROWS)]
    first, again, other = (modern.decoder.decode(same, seed=seed) for seed in (3, 3, 4))
    for i in range(ROWS):
        np.testing.assert_array_equal(first[i].codes, again[i].codes)
    assert not np.array_equal(first[0].codes, other[0].codes)
    np.testing.assert_array_equal(first[0].codes, first[1].codes)  # the same item
    assert not np.array_equal(first[0].codes, first[2].codes)


def test_units_alone_can_be_sampled(modern, requests):
    """Without frames to sample the acoustic part of the result is empty."""
    units_only = [dataclasses.replace(r, max_units=8, max_frames=0) for r in requests]
    results = modern.decoder.decode(units_only)
    assert all(result.codes.shape == (3, 0) for result in results)
    assert any(len(result.units) for result in results)


@pytest.mark.parametrize(
    ("units", "codes", "message"),
    [
        ([11], np.zeros((3, 0)), "semantic unit"),
        ([0], np.full((3, 1), 5), "acoustic code"),
        ([0], np.zeros((2, 1)), "codes must be"),
    ],
)
def test_bad_prompts_are_refused(modern, units, codes, message):
    with pytest.raises(ValueError, match=message):
        modern.decoder.decode([Request(np.array(units), codes, max_frames=1)])


def test_no_requests_are_refused(modern):
    with pytest.raises(ValueError, match="no requests"):
        modern.decoder.decode([])


def test_prompts_beyond_the_position_table_are_refused(toys):
    request = Request(np.zeros(POSITIONS, int), np.zeros((3, 0), int), max_frames=1)
    with pytest.raises(ConfigError, match=f"table of {POSITIONS}"):
        toys["paper"].decoder.decode([request])


@pytest.mark.parametrize("bad", [{"temperature": 0.0}, {"temperature": -1.0}, {"top_k": -1}])
def test_bad_sampling_settings_are_refused(bad):
    with pytest.raises(ConfigError, match="sampling"):
        SamplingConfig(**bad)
