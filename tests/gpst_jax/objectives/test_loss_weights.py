"""Weights of streams and codebooks, the z-loss and bits per second in the objective of GPST."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from data_pipeline.tokens import NO_TARGET, PAD, TokenLayout, segment_tokens
from gpst_jax.config import ConfigError, DataConfig, GPSTConfig, RunConfig, TransformerConfig
from gpst_jax.objectives import GPSTObjective

LAYOUT = TokenLayout(num_units=11, num_codebooks=3, codebook_size=5, unit_rate=50, frame_rate=75)
ROWS, LENGTH, BUDGET = 2, 48, 32
KEY = jax.random.key(0)
WEIGHTED = {"semantic_weight": 0.25, "codebook_weights": "4,0,1", "z_loss": 1e-2}
PARTS = [[(4, 6), (5, 8), (3, 4)], [(12, 18)]]  # units and frames of the segments of each row
FRAMES = 6 + 8 + 4 + 18


def _objective(**model):
    nets = TransformerConfig(16, 1, 2, 24), TransformerConfig(16, 1, 2, 24)
    data = DataConfig(
        batch_size=ROWS, sequence_length=LENGTH, frame_budget=BUDGET, crop_seconds=1.0
    )
    return GPSTObjective(RunConfig("toy", GPSTConfig(*nets, **model), data), LAYOUT)


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(_objective().model_config, LAYOUT)


@pytest.fixture(scope="module")
def segments(random_part):
    rng = np.random.default_rng(0)
    return [[segment_tokens(LAYOUT, [random_part(LAYOUT, rng, *n)]) for n in row] for row in PARTS]


@pytest.fixture(scope="module")
def batch(pack_rows, segments):
    return pack_rows(segments, LENGTH, BUDGET)


@pytest.fixture(scope="module")
def step(params):
    """Function (objective, batch, weights) -> loss, metrics, gradient; compiled once for each."""
    compiled = {}

    def run(objective, batch, weights=None):
        if objective not in compiled:
            compiled[objective] = jax.jit(
                jax.value_and_grad(
                    lambda p, batch, weights: objective.loss(p, batch, KEY, weights, True),
                    has_aux=True,
                )
            )
        weights = objective.weights(batch) if weights is None else weights
        (loss, metrics), gradient = compiled[objective](params, batch, weights)
        pairs = {name: (float(total), float(count)) for name, (total, count) in metrics.items()}
        return float(loss), pairs, gradient

    return run


@pytest.fixture(scope="module")
def plain():
    return _objective()


@pytest.fixture(scope="module")
def unpenalised():
    return _objective(**WEIGHTED | {"z_loss": 0.0})


@pytest.fixture(scope="module")
def weighted():
    return _objective(**WEIGHTED)


def _row_only(batch, row):
    """The batch with all other rows turned into padding."""
    fill = {"tokens": PAD, "frames": PAD, "semantic_targets": NO_TARGET}
    out = {name: np.full_like(value, fill.get(name, 0)) for name, value in batch.items()}
    for name, value in batch.items():
        out[name][row] = value[row]
    return out


def _mean(metrics, name):
    total, count = metrics[name]
    return total / count


def _weighted_loss(metrics):
    """By hand, of the weights of `WEIGHTED`, without its z-loss."""
    codes = 4 * _mean(metrics, "nll_acoustic_q0") + _mean(metrics, "nll_acoustic_q2")
    return 0.25 * _mean(metrics, "nll_semantic") + codes / 5


def _log_normalisers(objective, params, batch):
    """Logarithm of Z of all predictions: of units, and (N, Q) of codes."""
    model = objective.model(params)
    names = ("tokens", "positions", "streams", "segment_ids")
    hidden = model.hidden(*(batch[name] for name in names))
    logits = np.asarray(model.semantic_logits(hidden), np.float64)
    units = logits[np.asarray(batch["semantic_targets"]) >= 0]
    rows, frames = np.nonzero(batch["frame_segments"])
    picked = hidden[rows, batch["frame_index"][rows, frames]]
    local = model.local_hidden(picked, batch["frames"][rows, frames])
    codes = np.asarray(model.acoustic_logits(local), np.float64)
    return tuple(np.log(np.exp(logits).sum(axis=-1)) for logits in (units, codes))


def test_the_loss_is_the_weighted_sum_and_the_metrics_are_not_weighted(
    plain, unpenalised, step, batch
):
    loss, metrics, _ = step(plain, batch)
    assert loss == pytest.approx(_mean(metrics, "nll_semantic") + _mean(metrics, "nll_acoustic"))
    value, others, _ = step(unpenalised, batch)
    assert value == pytest.approx(_weighted_loss(metrics), rel=1e-6)
    assert abs(value - loss) > 1e-2
    assert others.keys() == metrics.keys()
    for name, pair in metrics.items():
        assert others[name] == pytest.approx(pair, rel=1e-6), name


def test_equal_weights_are_the_default(plain, step, batch):
    loss, _, gradient = step(plain, batch)
    other, _, others = step(_objective(codebook_weights="2,2,2"), batch)
    assert other == pytest.approx(loss, rel=1e-7)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), others, gradient)


def test_the_gradient_of_each_head_has_the_weight_of_its_stream(plain, unpenalised, step, batch):
    _, _, gradient = step(plain, batch)
    _, _, others = step(unpenalised, batch)
    heads, found = (np.asarray(tree["acoustic_head"]["kernel"]) for tree in (gradient, others))
    assert (np.abs(heads).max(axis=(1, 2)) > 1e-4).all()
    for codebook, factor in enumerate((12 / 5, 0.0, 3 / 5)):
        np.testing.assert_allclose(found[codebook], factor * heads[codebook], atol=1e-7)
    assert not found[1].any()
    want, got = (np.asarray(tree["semantic_head"]["kernel"]) for tree in (gradient, others))
    np.testing.assert_allclose(got, 0.25 * want, atol=1e-7)


def test_a_codebook_of_weight_zero_has_no_z_loss_either(step, weighted, batch):
    assert not np.asarray(step(weighted, batch)[2]["acoustic_head"]["kernel"])[1].any()


def test_the_z_loss_is_that_of_the_normalisers(plain, step, weighted, batch, params):
    loss, metrics, _ = step(weighted, batch)
    units, codes = (np.square(values) for values in _log_normalisers(plain, params, batch))
    by_codebook = codes.mean(axis=0)
    penalty = 0.25 * units.mean() + (4 * by_codebook[0] + by_codebook[2]) / 5
    assert loss - _weighted_loss(metrics) == pytest.approx(1e-2 * penalty, rel=1e-4)
    assert penalty > 1
    total, count = metrics["z_loss"]
    assert total == pytest.approx(1e-2 * (units.sum() + codes.sum()), rel=1e-5)
    assert count == units.size + codes.size


@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_parts_of_a_batch_add_up(pack_rows, segments, batch, step, weighted, drop):
    """Rows of other packing, or micro-batches under local-drop: the sums of the whole batch."""
    objective = _objective(**WEIGHTED, local_drop=drop) if drop else weighted
    weights = objective.weights(batch)
    loss, metrics, gradient = step(objective, batch)
    if drop:
        parts = [_row_only(batch, row) for row in range(ROWS)]
    else:
        flat = [segment for row in segments for segment in row]
        parts = [pack_rows([[s] for s in flat[at : at + 2]], LENGTH, BUDGET) for at in (0, 2)]
    found = [step(objective, part, weights=weights) for part in parts]
    assert sum(part for part, _, _ in found) == pytest.approx(loss, rel=1e-5)
    for name, pair in metrics.items():
        sums = np.sum([others[name] for _, others, _ in found], axis=0)
        np.testing.assert_allclose(sums, pair, rtol=1e-5, err_msg=name)
    added = jax.tree.map(lambda *parts: sum(parts), *(tree for _, _, tree in found))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), added, gradient)


def test_bits_per_second_are_those_of_all_streams(plain, step, batch):
    _, metrics, _ = step(plain, batch)
    bits, seconds = metrics["bits_per_second"]
    nats = metrics["nll_semantic"][0] + metrics["nll_acoustic"][0]
    assert bits == pytest.approx(nats / math.log(2), rel=1e-6)
    assert seconds == pytest.approx(FRAMES / 75, rel=1e-6)
    codes = step(_objective(semantic_loss=False), batch)[1]
    assert codes["bits_per_second"][0] == pytest.approx(nats / math.log(2) - (
        metrics["nll_semantic"][0] / math.log(2)), rel=1e-5)  # fmt: skip


def test_kept_frames_stand_for_all_in_bits_per_second(step, batch):
    _, metrics, _ = step(_objective(local_drop=0.5), batch)
    kept = metrics["nll_acoustic"][1]
    predictions = 3 * (FRAMES + 4)
    assert kept < predictions
    nats = metrics["nll_semantic"][0] + metrics["nll_acoustic"][0] * predictions / kept
    assert metrics["bits_per_second"][0] == pytest.approx(nats / math.log(2), rel=1e-5)
    assert metrics["bits_per_second"][1] == pytest.approx(FRAMES / 75, rel=1e-6)


def test_weights_of_another_number_of_codebooks_are_refused(plain):
    with pytest.raises(ConfigError, match="has 2 weights, the dataset has 3 codebooks"):
        _objective(codebook_weights="1,2")
    model = dataclasses.replace(plain.model_config, codebook_weights="1,2")
    assert model.codebook_weights == "1,2"  # which datasets it fits is not known before
