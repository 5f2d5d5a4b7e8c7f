"""Cached decoding of the language model equals the full forward pass, within a grammar."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grammars import free_grammar

from data_pipeline.tokens.vocabulary import Vocabulary
from gpst_jax.config import ConfigError, SemanticLMConfig, TransformerConfig
from gpst_jax.generation import lm_decode
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.guards import Guards
from gpst_jax.generation.lm_grammar import (
    END,
    PARTS,
    UNITS,
    Grammar,
    Phase,
    answer_grammar,
)
from gpst_jax.generation.lm_sampler import LMDecoder, LMRequest
from gpst_jax.models import semantic_lm

VOCABULARY = Vocabulary(text_size=23, num_units=19)
NET = TransformerConfig(32, 2, 4, 48, num_kv_heads=2)
CONFIGS = {
    "modern": SemanticLMConfig(NET),
    "llama": SemanticLMConfig(NET, block="llama", tie_embeddings=True),
}
PLAIN = SamplingConfig()
GREEDY = SamplingConfig(top_k=1)


def _random_params(config, seed=0):
    """Random parameters: no norm scale is 1, and logits are far from uniform."""
    init = functools.partial(semantic_lm.init, config, VOCABULARY.size)
    rng = np.random.default_rng(seed)

    def random_leaf(path, leaf):
        noise = rng.normal(size=leaf.shape)
        if path[-1].key == "scale":
            return jnp.asarray(1 + 0.2 * noise, jnp.float32)
        return jnp.asarray(1.5 * noise * config.net.d_model**-0.5, jnp.float32)

    return jax.tree.map_with_path(random_leaf, jax.eval_shape(init, jax.random.key(0)))


@pytest.fixture(scope="module")
def decoders():
    """A decoder of each block."""
    return {
        name: LMDecoder(config, VOCABULARY, _random_params(config))
        for name, config in CONFIGS.items()
    }


@pytest.fixture(scope="module")
def decoder(decoders):
    """The decoder of the modern block."""
    return decoders["modern"]


@pytest.fixture(scope="module")
def requests():
    """Prompts around the chunk boundaries of the prefill, some with a small max_new."""
    rng = np.random.default_rng(0)
    lengths = (1, 5, 63, 64, 65, 100)
    return [
        LMRequest(rng.integers(0, VOCABULARY.size, n), max_new=3 if i == 1 else 100, item=i)
        for i, n in enumerate(lengths)
    ]


@pytest.fixture(scope="module")
def results(decoders, requests):
    """The results of each block without a grammar."""
    return {
        name: decoder.decode(requests, free_grammar(VOCABULARY), seed=1, text=PLAIN, units=PLAIN)
        for name, decoder in decoders.items()
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_log_probabilities_are_those_of_the_full_forward_pass(name, decoders, requests, results):
    width = max(len(r.prompt) + r.max_new for r in requests)
    rows = np.zeros((len(requests), width), np.int32)
    for row, (request, result) in enumerate(zip(requests, results[name], strict=True)):
        whole = np.concatenate([request.prompt, result.ids])
        rows[row, : len(whole)] = whole
    decoder = decoders[name]
    model = semantic_lm.bind(decoder.config, decoder.params)
    positions = jnp.broadcast_to(jnp.arange(width)[None], rows.shape)
    log_probs = jax.nn.log_softmax(
        jax.jit(lambda: model.logits(model.hidden(jnp.asarray(rows), positions)))()
    )
    for row, (request, result) in enumerate(zip(requests, results[name], strict=True)):
        at = len(request.prompt) - 1 + np.arange(len(result.ids))
        np.testing.assert_allclose(result.log_probs, log_probs[row, at, result.ids], atol=2e-5)
        assert len(result.ids) == request.max_new or result.ended
    assert sum(len(result.ids) for result in results[name]) > 50
    assert np.concatenate([result.log_probs for result in results[name]]).std() > 0.5


def test_samples_do_not_depend_on_the_batch(decoder, requests, results):
    again = decoder.decode(
        requests[::-1], free_grammar(VOCABULARY), seed=1, text=PLAIN, units=PLAIN, batch_size=4
    )[::-1]
    for one, other in zip(again, results["modern"], strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
    assert any(len(one.ids) > 10 for one in again)


def test_samples_depend_on_seed_and_item(decoder, requests, results):
    grammar = free_grammar(VOCABULARY)
    same = dataclasses.replace(requests[0], item=99)
    samples = [result.ids.tolist() for result in results["modern"][:1]]
    for seed, request in ((1, same), (2, requests[0])):
        batch = [request, *requests[1:]]
        samples.append(decoder.decode(batch, grammar, seed=seed, text=PLAIN)[0].ids.tolist())
    assert samples[0] != samples[1] != samples[2] != samples[0]


def test_greedy_takes_the_likeliest_allowed_id(decoder, requests):
    only_units = (VOCABULARY.unit_start, VOCABULARY.size, "units")
    grammar = Grammar((Phase("units", UNITS, (only_units,)),))
    found = decoder.decode(requests, grammar, seed=1, text=GREEDY, units=GREEDY)
    nucleus = SamplingConfig(top_p=1e-6)
    other = decoder.decode(requests, grammar, seed=2, text=nucleus, units=nucleus)
    for one, two in zip(found, other, strict=True):
        np.testing.assert_array_equal(one.ids, two.ids)
    model = semantic_lm.bind(decoder.config, decoder.params)
    prompt = jnp.asarray(requests[2].prompt)[None]
    hidden = model.hidden(prompt, jnp.arange(prompt.shape[1])[None])
    logits = np.asarray(model.logits(hidden))[0, -1]
    assert found[2].ids[0] == VOCABULARY.unit_start + logits[VOCABULARY.unit_start :].argmax()


# Grammar


@pytest.mark.parametrize(
    "parts", [PARTS[:1], PARTS[2:], PARTS[:2], PARTS[1:], PARTS], ids=lambda parts: "+".join(parts)
)
def test_answers_have_the_requested_parts(decoder, requests, parts):
    generous = [dataclasses.replace(request, max_new=128) for request in requests]
    warm = SamplingConfig(temperature=3.0)
    results = decoder.decode(generous, answer_grammar(VOCABULARY, parts), text=warm, units=warm)
    assert any(result.ended for result in results)
    for result in results:
        ids = list(result.ids)
        assert len(result.log_probs) == len(ids)
        if not result.ended:
            assert len(ids) == 128
            continue
        assert ids.pop() == VOCABULARY.end
        for part in parts:
            assert ids.pop(0) == VOCABULARY.id(part)
            if part == "speech_answer":
                assert ids.pop(0) == VOCABULARY.id("speech_start")
                stop = ids.index(VOCABULARY.id("speech_end"))
                assert stop > 0
                assert VOCABULARY.is_unit(np.array(ids[:stop])).all()
                stop += 1
            else:
                stop = next((i for i, one in enumerate(ids) if one >= 23), len(ids))
                assert stop > 0
            ids = ids[stop:]
        assert not ids


@pytest.mark.parametrize("parts", [(), PARTS[::-1], ("speech",)])
def test_unknown_parts_are_refused(parts):
    with pytest.raises(ValueError, match="question_transcript, text_answer, speech_answer"):
        answer_grammar(VOCABULARY, parts)


def test_broken_grammars_are_refused():
    with pytest.raises(ValueError, match="leads to"):
        Grammar((Phase("a", "text", ((0, 1, "b"),)),))
    with pytest.raises(ValueError, match="leads to"):
        Grammar((Phase("a", "text", ()),))
    with pytest.raises(ValueError, match="must be unique"):
        Grammar((Phase("a", "text", ((0, 1, END),)),) * 2)
    with pytest.raises(ValueError, match="ids 0 to 9 of 5"):
        Grammar((Phase("a", "text", ((0, 9, END),)),)).tables(5)


# Sampling


def _frequencies(logits, temperature, top_k, top_p, count=4000):
    sampling = lm_decode.Sampling(*(jnp.full(count, x) for x in (temperature, top_k, top_p)))
    keys = jax.random.split(jax.random.key(0), count)
    rows = jnp.broadcast_to(jnp.asarray(logits)[None], (count, len(logits)))
    ids = lm_decode.sample_ids(rows, keys, sampling, len(logits))
    return np.bincount(np.asarray(ids), minlength=len(logits)) / count


def _softmax(logits):
    weights = np.exp(logits - np.max(logits))
    return weights / weights.sum()


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 7, 1.0), (0.5, 7, 1.0), (1.0, 3, 1.0), (1.0, 7, 0.6), (2.0, 5, 0.7)],
)
def test_samples_have_the_probabilities_of_the_definition(temperature, top_k, top_p):
    logits = np.array([0.5, 2.0, -1.0, 1.0, -np.inf, 1.5, 0.0])
    order = np.argsort(-logits)
    kept = order[:top_k]
    weights = _softmax(logits[kept] / temperature)
    kept = kept[: np.searchsorted(np.cumsum(weights), top_p) + 1]
    expected = np.zeros(7)
    expected[kept] = _softmax(logits[kept] / temperature)
    found = _frequencies(logits, temperature, top_k, top_p)
    assert (found[expected == 0] == 0).all()
    np.testing.assert_allclose(found, expected, atol=0.03)


# Settings of single items


def test_items_have_their_own_settings(decoder, requests):
    """Each item of a mixed batch is as in a batch where all have its settings."""
    grammar = free_grammar(VOCABULARY)
    settings = [
        {"text": GREEDY, "units": GREEDY},
        {"text": SamplingConfig(top_p=0.5), "units": SamplingConfig(0.6), "seed": 4},
    ]
    own = [dataclasses.replace(r, **s) for r, s in zip(requests, settings, strict=False)]
    plain = {"text": PLAIN, "units": PLAIN}
    mixed = decoder.decode(own + requests[2:], grammar, seed=1, **plain)
    for row, options in enumerate([*settings, {}]):
        alike = decoder.decode(requests, grammar, **({"seed": 1} | plain | options))
        np.testing.assert_array_equal(mixed[row].ids, alike[row].ids)


def test_the_fewest_units_are_kept(decoder, requests):
    grammar = answer_grammar(VOCABULARY, PARTS[2:])
    warm = SamplingConfig(temperature=3.0)
    for fewest in (0, 20):
        bound = [dataclasses.replace(r, max_new=128, min_units=fewest) for r in requests]
        results = decoder.decode(bound, grammar, text=warm, units=warm)
        spoken = [VOCABULARY.is_unit(result.ids).sum() for result in results if result.ended]
        assert spoken
        assert (min(spoken) < 20) == (fewest == 0)


def test_guards_end_items(decoder, requests):
    guards = Guards(repeat_seconds=2 / 50, loop_repeats=0, silence_seconds=0)
    long = [dataclasses.replace(request, max_new=100) for request in requests]
    cold = SamplingConfig(temperature=0.5)
    grammar = free_grammar(VOCABULARY)
    free = decoder.decode(long, grammar, seed=1, text=cold, units=cold)
    guarded = decoder.decode(long, grammar, seed=1, text=cold, units=cold, guards=guards)
    fired = 0
    for one, whole in zip(guarded, free, strict=True):
        same = whole.ids[1:] == whole.ids[:-1]
        count = np.argmax(same) + 2 if same.any() else len(whole.ids)
        np.testing.assert_array_equal(one.ids, whole.ids[:count])
        assert one.ended_by == ("guard:repetition" if same.any() else whole.ended_by)
        fired += same.any()
    assert fired


# Refusals


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (LMRequest(np.zeros(0, np.int32), 4), "at least one id"),
        (LMRequest(np.zeros(2, np.int32), 0), "max_new"),
        (LMRequest(np.array([0, VOCABULARY.size]), 4), r"not all in 0 \.\. 52"),
        (LMRequest(np.array([-1]), 4), "not all in"),
    ],
)
def test_impossible_requests_are_refused(decoder, request_, message):
    with pytest.raises(ValueError, match=message):
        decoder.decode([request_], free_grammar(VOCABULARY))


def test_no_requests_and_a_foreign_vocabulary_are_refused(decoder):
    with pytest.raises(ValueError, match="no requests"):
        decoder.decode([], free_grammar(VOCABULARY))
    with pytest.raises(ConfigError, match="the model has 53 ids, the vocabulary 54"):
        LMDecoder(decoder.config, Vocabulary(24, 19), decoder.params)


def test_top_p_is_checked():
    with pytest.raises(ConfigError, match="top_p"):
        SamplingConfig(top_p=0.0)
