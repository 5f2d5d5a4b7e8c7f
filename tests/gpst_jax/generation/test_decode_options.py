"""Streams, settings of single items, guards, the best of several samples, and meshes."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.runtime.errors import UserError
from data_pipeline.tokens import TokenLayout
from gpst_jax.config import ConfigError, GPSTConfig, MeshConfig, TransformerConfig
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.gpst_sampler import Decoder, Request, best_of
from gpst_jax.generation.guards import Guards
from gpst_jax.models import decoding
from gpst_jax.parallel import sharding

LAYOUT = TokenLayout(num_units=11, num_codebooks=3, codebook_size=5, unit_rate=50, frame_rate=75)
GREEDY = SamplingConfig(top_k=1)


@pytest.fixture(scope="module")
def decoders(random_params):
    """A decoder of each block."""
    made = {}
    for block, positions in (("modern", "time"), ("paper", "running")):
        nets = TransformerConfig(32, 2, 4, 48), TransformerConfig(16, 1, 2, 24)
        config = GPSTConfig(*nets, block=block, max_positions=512)
        made[block] = Decoder(config, LAYOUT, random_params(config, LAYOUT), positions)
    return made


@pytest.fixture(scope="module")
def decoder(decoders):
    """The decoder of the modern block."""
    return decoders["modern"]


@pytest.fixture(scope="module")
def requests(random_part):
    """Prompts of different lengths; two of them sample units as well.

    Every call is of four requests of these padded lengths, so that programs are shared.
    """
    random = np.random.default_rng(0)
    out = []
    for item, (units, frames) in enumerate([(5, 1), (9, 4), (3, 2), (12, 9)]):
        given = random_part(LAYOUT, random, units, frames)
        more = 0 if item % 2 else 6
        out.append(Request(*given, max_units=more, max_frames=20 + 7 * item, item=item))
    return out


def _assert_equal(one, two):
    np.testing.assert_array_equal(one.units, two.units)
    np.testing.assert_array_equal(one.codes, two.codes)
    assert dataclasses.astuple(one)[2:] == dataclasses.astuple(two)[2:]


def _drained(chunks):
    """What a generator yields, and what it returns."""
    parts = []
    while True:
        try:
            parts.append(next(chunks))
        except StopIteration as stopped:
            return parts, stopped.value


@pytest.mark.parametrize(("block", "chunk"), [("modern", 1), ("modern", 100), ("paper", 7)])
def test_a_stream_equals_the_batch_bit_for_bit(decoders, requests, block, chunk):
    whole = decoders[block].decode(requests, seed=2)
    chunks, results = _drained(decoders[block].stream_batch(requests, chunk_frames=chunk, seed=2))
    for row, (result, wanted) in enumerate(zip(results, whole, strict=True)):
        _assert_equal(result, wanted)
        np.testing.assert_array_equal(
            np.concatenate([c[row] for c in chunks], axis=1), wanted.codes
        )
    longest = max(result.codes.shape[1] for result in whole)
    assert len(chunks) in (-(-longest // chunk), longest // chunk + 1)  # an end is a step, too


def test_a_stream_of_one(decoder, requests):
    chunks, result = _drained(decoder.stream(requests[1], chunk_frames=8, seed=2))
    np.testing.assert_array_equal(np.concatenate(chunks, axis=1), result.codes)
    assert all(0 < chunk.shape[1] <= 8 for chunk in chunks)
    np.testing.assert_array_equal(result.codes, decoder.decode(requests, seed=2)[1].codes)


def test_empty_chunks_are_refused(decoder, requests):
    with pytest.raises(ValueError, match="chunk_frames must be positive, got 0"):
        next(decoder.stream(requests[0], chunk_frames=0))


def test_items_have_their_own_settings(decoder, requests):
    """Each item of a mixed batch is as in a batch where all have its settings."""
    narrow = SamplingConfig(top_p=1e-6)  # a nucleus of one class: greedy
    settings = [
        {"acoustic": GREEDY, "semantic": GREEDY},
        {"acoustic": SamplingConfig(temperature=0.5), "seed": 5},
        {"acoustic": narrow, "semantic": narrow},
        {"acoustic": SamplingConfig(2.0, top_k=3, top_p=0.8), "seed": 6},
    ]
    own = [dataclasses.replace(r, **s) for r, s in zip(requests, settings, strict=True)]
    mixed = decoder.decode(own, seed=1)
    settings[2] = settings[0]
    for row, options in enumerate(settings):
        alike = decoder.decode(requests, **({"seed": 1} | options))
        np.testing.assert_array_equal(mixed[row].units, alike[row].units)
        np.testing.assert_array_equal(mixed[row].codes, alike[row].codes)


def test_the_fewest_units_are_kept(decoder, requests):
    hot = SamplingConfig(temperature=50.0)
    free = [dataclasses.replace(requests[0], max_units=12, item=item) for item in range(4)]
    bound = [dataclasses.replace(request, min_units=9) for request in free]
    assert min(len(result.units) for result in decoder.decode(free, semantic=hot)) < 9
    results = decoder.decode(bound, semantic=hot)
    assert all(9 <= len(result.units) <= 12 for result in results)
    assert {result.ended_by for result in results} <= {"end", "length"}


def test_what_ended_an_item_is_said(decoder, requests):
    for request, result in zip(requests, decoder.decode(requests, seed=2), strict=True):
        assert (result.units_ended_by == "given") == (request.max_units == 0)
        full = result.codes.shape[1] == request.max_frames
        assert result.frames_ended_by == result.ended_by == ("length" if full else "end")


def test_guards_end_items_at_the_same_token_in_any_batch(decoder, requests):
    cold = SamplingConfig(temperature=0.3)
    endless = [dataclasses.replace(request, min_frames=41, max_frames=41) for request in requests]
    free = decoder.decode(endless, acoustic=cold)
    guards = Guards(0, 0, 0, silence_seconds=0, collapse_seconds=3 / 75)
    guarded = decoder.decode(endless, acoustic=cold, guards=guards)
    fired = 0
    for one, whole in zip(guarded, free, strict=True):
        first = whole.codes[0]
        same = (first[2:] == first[1:-1]) & (first[1:-1] == first[:-2])
        count = np.argmax(same) + 3 if same.any() else 41
        np.testing.assert_array_equal(one.codes, whole.codes[:, :count])
        assert one.ended_by == ("guard:collapse" if same.any() else "length")
        fired += same.any()
    assert fired
    shuffled = decoder.decode(endless[::-1], acoustic=cold, guards=guards)[::-1]
    for one, other in zip(guarded, shuffled, strict=True):
        np.testing.assert_array_equal(one.codes, other.codes)
        assert one.ended_by == other.ended_by


def test_silence_is_what_the_decoder_was_told(decoders, requests):
    old = decoders["modern"]
    silence = np.arange(11), np.tile(np.arange(5), (3, 1))  # everything is silence
    decoder = Decoder(old.config, LAYOUT, old.params, "time", silence)
    endless = [dataclasses.replace(request, min_frames=20) for request in requests]
    for result in decoder.decode(endless, guards=Guards(0, 0, 0, silence_seconds=4 / 75)):
        assert (result.frames_ended_by, result.codes.shape[1]) == ("guard:silence", 4)


def test_the_best_of_several_samples(decoder, requests):
    scored = []

    def score(request, result):
        scored.append(result)
        return -result.codes.shape[1]

    (shortest,) = best_of(decoder, requests[:1], 4, score=score, seed=4)
    assert len({result.codes.tobytes() for result in scored}) == 4
    assert shortest.codes.shape[1] == min(result.codes.shape[1] for result in scored)
    np.testing.assert_array_equal(scored[0].codes, decoder.decode(requests, seed=4)[0].codes)
    likeliest = best_of(decoder, requests[:1], 4, seed=4)[0]
    assert likeliest.mean_log_prob == max(result.mean_log_prob for result in scored)


@pytest.mark.parametrize("block", ["modern", "paper"])
def test_sharded_parameters_decode_the_same(decoders, requests, block):
    decoder = decoders[block]
    wanted = decoder.decode(requests, seed=3)
    mesh = sharding.make_mesh(MeshConfig(1, 4, 2))
    where = sharding.parameter_shardings(mesh, decoder.params)
    with jax.set_mesh(mesh):
        params = jax.device_put(decoder.params, where)
        sharded = Decoder(decoder.config, LAYOUT, params, decoder.positions)
        layer = sharded.weights.global_net.layers[0]
        assert not layer.down.kernel.sharding.is_fully_replicated
        for found, expected in zip(sharded.decode(requests, seed=3), wanted, strict=True):
            np.testing.assert_array_equal(found.units, expected.units)
            np.testing.assert_array_equal(found.codes, expected.codes)
            assert found.log_prob_frames == pytest.approx(expected.log_prob_frames, abs=1e-4)


# Weights


def test_weights_of_another_precision(decoders, requests):
    old = decoders["modern"]
    with pytest.raises(ConfigError, match="float32, bfloat16, int8, got 'int4'"):
        Decoder(old.config, LAYOUT, old.params, "time", weights="int4")
    half = Decoder(old.config, LAYOUT, old.params, "time", weights="bfloat16")
    assert half.weights.global_net.layers[0].out.kernel.dtype == jnp.bfloat16
    wanted = old.decode(requests, seed=2, semantic=GREEDY, acoustic=GREEDY)
    found = half.decode(requests, seed=2, semantic=GREEDY, acoustic=GREEDY)
    assert found[1].codes[0, 0] == wanted[1].codes[0, 0]


def test_int8_weights_need_their_library(decoder, monkeypatch):
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(UserError, match=r"pip install 'gpst_jax\[int8\]'"):
        Decoder(decoder.config, LAYOUT, decoder.params, "time", weights="int8")


def test_int8_products_are_near_those_of_float32():
    pytest.importorskip("qwix")
    random = np.random.default_rng(0)
    linear = decoding.Linear(
        jnp.asarray(random.normal(size=(256, 96)), jnp.float32),
        jnp.asarray(random.normal(size=96), jnp.float32),
    )
    for rows in (1, 5):
        x = jnp.asarray(random.normal(size=(rows, 1, 256)), jnp.float32)
        wanted = linear(x)
        error = decoding.quantized(linear)(x) - wanted
        assert 0 < jnp.abs(error).max() < 0.05 * wanted.std()


def test_int8_weights_decode(decoders, requests):
    pytest.importorskip("qwix")
    old = decoders["modern"]
    decoder = Decoder(old.config, LAYOUT, old.params, "time", weights="int8")
    for result, request in zip(decoder.decode(requests), requests, strict=True):
        assert result.codes.shape[1] == request.max_frames or result.ended_by == "end"
        assert -5 < result.mean_log_prob < 0
