"""Likelihoods are exact: those of the training loss, of each sequence alone, and sum to one."""

import dataclasses
import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stored_model import make_config, make_dataset, random_params

from data_pipeline.datasets.kinds import parse_spec
from data_pipeline.datasets.sequence_records import SequenceReader
from data_pipeline.datasets.token_records import RecordReader
from gpst_jax.checkpoints.manager import Loaded
from gpst_jax.evaluation.likelihood import scorer as scorers
from gpst_jax.evaluation.likelihood.gpst import GPSTScorer
from gpst_jax.evaluation.likelihood.scores import Score, bits_per_second
from gpst_jax.objectives import make_objective


def _scores(scorer, items) -> list[Score]:
    found = dict(scorer.score(items))
    return [found[place] for place in range(len(items))]


def _of_loss(objective, params, batch) -> dict[str, tuple[float, float]]:
    """Metrics of the training loss: sum and count."""
    weights = objective.weights(batch)
    _, metrics = jax.jit(lambda p, b: objective.loss(p, b, jax.random.key(0), weights, False))(
        params, batch
    )
    return {name: (float(total), float(count)) for name, (total, count) in metrics.items()}


@pytest.fixture(scope="module")
def parts(stored):
    reader = RecordReader(stored / "tokens", "valid")
    records = [reader[place] for place in range(len(reader))]
    return [(r.units.astype(np.int32), r.codes.astype(np.int32)) for r in records]


@pytest.mark.parametrize("name", ["gpst", "gpst_paper"])
def test_gpst_gives_the_sums_of_the_training_loss(stored, loaded, scorings, parts, name):
    model, scorer = loaded(name), scorings(name).scorer
    items = [part for part in parts if not scorer.refusal(part)][:3]
    assert len(items) == 3
    scores = _scores(scorer, items)
    objective = make_objective(
        model.loaded.config, parse_spec(model.loaded.dataset, "the run"), stored / "tokens"
    )
    shape = tuple(np.max([scorer.shape(item) for item in items], axis=0).tolist())
    rows = [scorer.row(item, shape) for item in items]
    batch = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    wanted = _of_loss(objective, model.loaded.params, batch)
    for stream in scorer.streams:
        found = sum(score.nats[stream] for score in scores)
        count = sum(score.tokens[stream] for score in scores)
        assert (found, count) == pytest.approx(wanted[f"nll_{stream}"], rel=1e-5)
    assert sum(score.total().tokens for score in scores) == sum(
        wanted[name][1] for name in ("nll_semantic", "nll_acoustic")
    )
    nats = sum(score.total().nats for score in scores)
    seconds = sum(codes.shape[1] for _, codes in items) / scorer.layout.frame_rate
    bits, audio_seconds = wanted["bits_per_second"]
    assert audio_seconds == pytest.approx(seconds, rel=1e-6)
    assert bits / audio_seconds == pytest.approx(bits_per_second(nats, seconds), rel=1e-5)


def test_the_language_model_gives_the_sums_of_the_training_loss(stored, loaded, scorings):
    model, scorer = loaded("lm"), scorings("lm").scorer
    reader = SequenceReader(stored / "sequences", "valid")
    items = [(reader[place].ids, reader[place].loss_mask) for place in range(4)]
    scores = _scores(scorer, items)
    objective = make_objective(
        model.loaded.config, parse_spec(model.loaded.dataset, "the run"), stored / "sequences"
    )
    shape = (max(scorer.shape(item)[0] for item in items),)
    rows = [scorer.row(item, shape) for item in items]
    batch = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    wanted = _of_loss(objective, model.loaded.params, batch)
    for stream in scorer.streams:
        found = sum(score.nats[stream] for score in scores)
        count = sum(score.tokens[stream] for score in scores)
        assert (found, count) == pytest.approx(wanted[f"nll_{stream}"], rel=1e-5)


def test_a_score_does_not_depend_on_what_else_is_scored(scorings, parts):
    scorer = scorings("gpst").scorer
    alone = [_scores(scorer, [part])[0] for part in parts[:3]]
    many = _scores(scorer, [*parts[3:], *parts[::-1], *parts[:3]])
    for one, other in zip(alone, many[-3:], strict=True):
        assert one.tokens == other.tokens
        for stream in scorer.streams:
            assert one.nats[stream] == pytest.approx(other.nats[stream], rel=1e-6)


def test_the_units_do_not_depend_on_the_frames(scorings, parts):
    """So that their sum alone is the likelihood of the units."""
    scorer, (units, codes) = scorings("gpst").scorer, parts[0]
    whole, other = _scores(scorer, [(units, codes), (units, codes[:, ::-1])])
    assert whole.nats["semantic"] == pytest.approx(other.nats["semantic"], rel=1e-6)
    assert whole.nats["acoustic_q0"] != pytest.approx(other.nats["acoustic_q0"], rel=1e-3)
    assert whole.total("units").tokens == len(units) + 1
    assert whole.total().tokens == len(units) + 1 + (codes.shape[1] + 1) * len(codes)


def test_what_the_model_collapses_is_collapsed(scorings):
    scorer = scorings("gpst_paper").scorer
    assert scorer.data.deduplicate, "the stored run collapses repeated units"
    codes = np.zeros((scorer.layout.num_codebooks, 4), np.int32)
    once, twice = _scores(
        scorer, [(np.array([1, 2, 1]), codes), (np.array([1, 1, 1, 2, 1, 1]), codes)]
    )
    assert once == twice
    assert once.tokens["semantic"] == 4


def _toy(tmp_path, units="front", **fields):
    """A `paper` model of two units and one codebook of two codes, likely to end soon.

    Channel 0 of the hidden states is 1, so that row 0 of a head is a bias: specials that no
    sequence holds get no probability, the end nearly all.
    """
    spec = make_dataset(tmp_path / "dataset", 1)
    spec = dataclasses.replace(
        spec,
        semantic=dataclasses.replace(spec.semantic, vocab_size=2),
        codec=dataclasses.replace(spec.codec, codebook_size=2),
    ).sealed()
    config = make_config(tmp_path / "dataset", "paper", **fields).override([f"data.units={units}"])
    params = random_params(config, spec)
    for net in ("global_net", "local_net"):
        norm = params[net]["final_norm"]
        norm["scale"], norm["bias"] = norm["scale"].at[0].set(0.0), norm["bias"].at[0].set(1.0)
    bias = jnp.full(4 + 2, 0.0).at[jnp.array([0, 1, 3])].set(-1e4).at[2].set(5.0)
    semantic, acoustic = params["semantic_head"], params["acoustic_head"]
    semantic["kernel"] = semantic["kernel"].at[0].set(bias)
    acoustic["kernel"] = acoustic["kernel"].at[:, 0].set(bias[None])
    dataset = json.loads(json.dumps(dataclasses.asdict(spec)))
    return GPSTScorer(Loaded(params, config, dataset, 4, "GPSTObjective"))


def test_probabilities_of_all_sequences_sum_to_one(tmp_path):
    scorer = _toy(tmp_path)
    strings = [
        np.array(string, np.int32)
        for length in range(4)
        for string in itertools.product(range(2), repeat=length)
    ]
    items = [(units, codes[None]) for units in strings for codes in strings]
    scores = _scores(scorer, items)
    assert sum(math.exp(-score.total().nats) for score in scores) == pytest.approx(1, abs=1e-4)
    of_units = scores[:: len(strings)]
    assert sum(math.exp(-score.total("units").nats) for score in of_units) == pytest.approx(
        1, abs=1e-4
    )
    assert max(math.exp(-score.total().nats) for score in scores) < 0.99  # not all on one


def test_probabilities_of_all_frames_sum_to_one_without_units(tmp_path):
    scorer = _toy(tmp_path, units="none")
    assert scorer.streams == ("acoustic_q0",)
    strings = [
        np.array(string, np.int32)
        for length in range(6)
        for string in itertools.product(range(2), repeat=length)
    ]
    some_units = np.array([1, 0, 1], np.int32)  # of the recording: the model does not read them
    scores = _scores(scorer, [(some_units, codes[None]) for codes in strings])
    assert sum(math.exp(-score.total().nats) for score in scores) == pytest.approx(1, abs=1e-4)
    again = _scores(scorer, [(some_units[:1], codes[None]) for codes in strings])
    assert [one.nats for one in again] == [one.nats for one in scores]
    assert scorer.fingerprint != _toy(tmp_path / "with").fingerprint


def test_a_model_without_a_loss_on_units_has_no_likelihood_of_them(tmp_path):
    scorer = _toy(tmp_path, semantic_loss=False)
    row = scorer.row((np.zeros(2, np.int32), np.zeros((1, 3), np.int32)), (128, 128))
    batch = {name: value[None] for name, value in row.items()}
    sums = jax.eval_shape(scorer._sums, scorer._params, batch)
    assert scorer.streams == ("acoustic_q0",) == tuple(sums)
    score = Score({"acoustic_q0": 2.0}, {"acoustic_q0": 4})
    assert score.total("units") is None
    assert score.total().per_token == -0.5


def test_what_exceeds_the_table_of_positions_is_refused(tmp_path):
    scorer = _toy(tmp_path)
    fits = (np.zeros(48, np.int32), np.zeros((1, 50), np.int32))
    assert scorer.refusal(fits) is None
    longer = (np.zeros(49, np.int32), np.zeros((1, 50), np.int32))
    assert "needs 101 positions, the model has 100" in scorer.refusal(longer)


def test_other_parameters_have_another_fingerprint(tmp_path, scorings):
    one, other = _toy(tmp_path / "a"), _toy(tmp_path / "b", semantic_loss=False)
    assert len({one.fingerprint, other.fingerprint, scorings("gpst").fingerprint}) == 3
    assert _toy(tmp_path / "c").fingerprint == one.fingerprint


def test_shapes_are_few_and_waste_little():
    lengths = range(1, 10_000)
    sizes = [scorers.padded(length) for length in lengths]
    assert len(set(sizes)) < 20
    for length, size in zip(lengths, sizes, strict=True):
        assert size >= length
        assert size % 128 == 0
        assert size <= max(128, 2 * length)
        assert length <= 512 or size < 1.5 * length


def test_logits_in_chunks_give_the_same_sums(monkeypatch):
    rng = np.random.default_rng(0)
    hidden, kernel = rng.normal(size=(3, 8, 4)), rng.normal(size=(4, 7))
    targets = rng.integers(-1, 7, (3, 8))
    masks = np.stack([targets >= 3, (targets >= 0) & (targets < 3)], axis=-1)
    logits = hidden @ kernel
    nll = np.log(np.exp(logits).sum(axis=-1))
    nll -= np.take_along_axis(logits, np.maximum(targets, 0)[..., None], axis=-1)[..., 0]
    wanted = (nll[..., None] * masks).sum(axis=1)
    arrays = jnp.asarray(hidden, jnp.float32), jnp.asarray(kernel, jnp.float32)
    for size in (1 << 20, 3 * 28 * 2):  # bytes of all logits and more, of two positions
        monkeypatch.setattr(scorers, "_LOGITS_BYTES", size)
        found = jax.jit(lambda *given: scorers.sum_by_row(*given))(*arrays, targets, masks)
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
