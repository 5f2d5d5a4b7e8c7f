"""The loss of GPST: its two terms, local-drop, packing, and the interface to the training loop."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.tokens import NO_TARGET, PAD, TokenLayout, segment_tokens
from gpst_jax.config import (
    ConfigError,
    DataConfig,
    GPSTConfig,
    RunConfig,
    TrainConfig,
    TransformerConfig,
)
from gpst_jax.objectives import GPSTObjective

LAYOUT = TokenLayout(num_units=11, num_codebooks=3, codebook_size=5, unit_rate=50, frame_rate=75)
ROWS, LENGTH, BUDGET = 4, 48, 32
KEY = jax.random.key(0)


def _objective(data=None, **model):
    nets = TransformerConfig(32, 2, 4, 48), TransformerConfig(16, 2, 2, 24)
    fields = {
        "batch_size": ROWS,
        "sequence_length": LENGTH,
        "frame_budget": BUDGET,
        "crop_seconds": 1.0,
    }
    config = RunConfig(
        name="toy",
        model=GPSTConfig(*nets, **model),
        data=DataConfig(**(fields | (data or {}))),
        train=TrainConfig(grad_accum_steps=2),
    )
    return GPSTObjective(config, LAYOUT)


@pytest.fixture(scope="module")
def params(random_params):
    """Random parameters of the toy model."""
    return random_params(_objective().model_config, LAYOUT)


@pytest.fixture(scope="module")
def segments(random_part):
    """Rows of segments of several lengths; the number of predicted frames is one more."""
    rng = np.random.default_rng(0)
    lengths = [[(4, 6), (5, 8), (3, 4)], [(12, 18)], [(2, 3), (2, 3), (8, 12)], [(1, 1)]]
    return [
        [segment_tokens(LAYOUT, [random_part(LAYOUT, rng, *n)]) for n in row] for row in lengths
    ]


@pytest.fixture(scope="module")
def batch(pack_rows, segments):
    """The rows packed."""
    return pack_rows(segments, LENGTH, BUDGET)


@pytest.fixture(scope="module")
def evaluate(params):
    """Function (objective, batch, key, train) -> loss and metrics, jitted once per objective."""
    compiled = {}

    def run(objective, batch, key=KEY, train=False, weights=None):
        if (objective, train) not in compiled:
            compiled[objective, train] = jax.jit(
                lambda params, batch, key, weights: objective.loss(
                    params, batch, key, weights, train
                )
            )
        weights = objective.weights(batch) if weights is None else weights
        loss, metrics = compiled[objective, train](params, batch, key, weights)
        return float(loss), {name: (float(a), float(b)) for name, (a, b) in metrics.items()}

    return run


@pytest.fixture(scope="module")
def plain():
    """The objective without smoothing or local-drop."""
    return _objective()


@pytest.fixture(scope="module")
def dropping():
    """The objective with half of the frames dropped in training."""
    return _objective(local_drop=0.5)


def _rows_only(batch, rows):
    """The batch with all other rows turned into padding."""
    fill = {"tokens": PAD, "frames": PAD, "semantic_targets": NO_TARGET}
    out = {name: np.full_like(value, fill.get(name, 0)) for name, value in batch.items()}
    for name, value in batch.items():
        out[name][rows] = value[rows]
    return out


def _mean(metrics, name):
    total, count = metrics[name]
    return total / count


# Terms


def test_terms_are_separate_means_added_one_to_one(plain, batch, evaluate):
    loss, metrics = evaluate(plain, batch)
    assert loss == pytest.approx(_mean(metrics, "nll_semantic") + _mean(metrics, "nll_acoustic"))
    segments = [(4, 6), (5, 8), (3, 4), (12, 18), (2, 3), (2, 3), (8, 12), (1, 1)]
    assert metrics["nll_semantic"][1] == sum(units + 1 for units, _ in segments)
    assert metrics["nll_acoustic"][1] == 3 * sum(frames + 1 for _, frames in segments)
    codebooks = [metrics[f"nll_acoustic_q{q}"] for q in range(3)]
    assert sum(total for total, _ in codebooks) == pytest.approx(metrics["nll_acoustic"][0])
    # At initialisation: about the logarithm of the number of classes, with noise.
    assert 2 < _mean(metrics, "nll_semantic") < 6
    assert 1.5 < _mean(metrics, "nll_acoustic") < 6


def test_without_the_semantic_loss_exactly_that_term_is_gone(plain, batch, evaluate):
    loss, metrics = evaluate(plain, batch)
    other, others = evaluate(_objective(semantic_loss=False), batch)
    assert other == pytest.approx(_mean(metrics, "nll_acoustic"))
    assert loss - other == pytest.approx(_mean(metrics, "nll_semantic"), rel=1e-5)
    assert set(metrics) - set(others) == {"nll_semantic"}


def test_smoothing_changes_the_loss_but_not_the_metrics(plain, batch, evaluate):
    loss, metrics = evaluate(plain, batch)
    smoothed, others = evaluate(_objective(label_smoothing=0.1), batch)
    uniform, _ = evaluate(_objective(label_smoothing=1.0), batch)
    # The loss is the straight line between that of the targets and that of uniform targets.
    assert abs(uniform - loss) > 2e-3
    assert smoothed == pytest.approx(0.9 * loss + 0.1 * uniform, rel=1e-6)
    for name, value in metrics.items():
        np.testing.assert_allclose(others[name], value, rtol=1e-6)


def test_metrics_are_those_of_the_targets(plain, batch, params, evaluate):
    """Sums over a plain loop of log-probabilities at the target classes."""
    model = plain.model(params)
    names = ("tokens", "positions", "streams", "segment_ids")
    hidden = model.hidden(*(batch[name] for name in names))
    log_probs = np.asarray(jax.nn.log_softmax(model.semantic_logits(hidden)))
    want = 0.0
    for row, at in np.argwhere(batch["semantic_targets"] >= 0):
        want -= log_probs[row, at, batch["semantic_targets"][row, at]]
    assert evaluate(plain, batch)[1]["nll_semantic"][0] == pytest.approx(want, rel=1e-5)

    rows, frames = np.nonzero(batch["frame_segments"])
    picked = hidden[rows, batch["frame_index"][rows, frames]]
    ids = batch["frames"][rows, frames]
    local = model.local_hidden(picked, jnp.asarray(ids))
    log_probs = np.asarray(jax.nn.log_softmax(model.acoustic_logits(local)))
    classes = LAYOUT.ids_to_classes(ids)
    for q in range(3):
        want = -sum(log_probs[i, q, classes[i, q]] for i in range(len(ids)))
        got = evaluate(plain, batch)[1][f"nll_acoustic_q{q}"][0]
        assert got == pytest.approx(want, rel=1e-5)


def test_evaluation_ignores_the_key(dropping, plain, batch, evaluate):
    one, two = (evaluate(dropping, batch, jax.random.key(seed))[0] for seed in (1, 2))
    assert one == two == evaluate(plain, batch)[0]


# Packing and micro-batches


def test_packing_changes_no_sum(plain, batch, segments, pack_rows, evaluate):
    """Segments packed in rows, and each in a row of its own: the same losses and counts."""
    flat = [segment for row in segments for segment in row]
    spread = [pack_rows([[s] for s in flat[at : at + 4]], LENGTH, BUDGET) for at in (0, 4)]
    weights = plain.weights(batch)
    loss, metrics = evaluate(plain, batch)
    parts = [evaluate(plain, part, weights=weights) for part in spread]
    assert sum(part for part, _ in parts) == pytest.approx(loss, rel=1e-5)
    for name, value in metrics.items():
        sums = np.sum([others[name] for _, others in parts], axis=0)
        np.testing.assert_allclose(sums, value, rtol=1e-5)


def test_micro_batches_add_up_to_the_batch(batch, random_params):
    """In loss and gradient, though the halves hold different numbers of predictions.

    Padded rows make both halves as large as the batch, so that one program serves all. The head is
    the shared one; test_learning.py trains one per codebook.
    """
    objective = _objective(shared_acoustic_head=True)
    params = random_params(objective.model_config, LAYOUT)
    weights = objective.weights(batch)

    @jax.jit
    def run(params, batch):
        return jax.value_and_grad(lambda p: objective.loss(p, batch, KEY, weights, True)[0])(params)

    whole, gradient = run(params, batch)
    halves = [run(params, _rows_only(batch, rows)) for rows in ([0, 1], [2, 3])]
    assert sum(loss for loss, _ in halves) == pytest.approx(float(whole), rel=1e-5)
    added = jax.tree.map(lambda a, b: a + b, *(grad for _, grad in halves))
    for (path, want), got in zip(
        jax.tree_util.tree_leaves_with_path(gradient), jax.tree.leaves(added), strict=True
    ):
        np.testing.assert_allclose(got, want, atol=1e-5)
        assert np.abs(want).max() > 0, f"{jax.tree_util.keystr(path)} is not trained"


def test_an_empty_batch_has_no_loss(plain, batch, evaluate):
    empty = _rows_only(batch, [])
    loss, metrics = evaluate(plain, empty)
    assert loss == 0
    assert all(count == 0 for _, count in metrics.values())


# Local-drop


def _kept(objective, batch, key):
    """Kept frames as (row, index in the row of positions, segment) and whether they are real."""
    index, frames, valid = jax.jit(objective._drop_frames)(batch, key)
    return np.asarray(index), np.asarray(frames), np.asarray(valid)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9, 1.0])
def test_every_segment_keeps_its_number_of_frames(batch, rate):
    objective = _objective(local_drop=rate)
    index, frames, valid = _kept(objective, batch, KEY)
    assert index.shape == valid.shape == (ROWS, objective.kept_frames)
    assert frames.shape == (ROWS, objective.kept_frames, 3)
    total = 0
    for row in range(ROWS):
        segments = batch["segment_ids"][row][index[row][valid[row]]]
        assert (segments > 0).all()  # never a padded one
        for number in range(1, batch["frame_segments"][row].max() + 1):
            n = (batch["frame_segments"][row] == number).sum()
            want = min(n, math.floor(n * (1 - rate) + 1))
            assert (segments == number).sum() == want
            total += want
        assert len(set(index[row][valid[row]])) == valid[row].sum()  # without replacement
    assert objective.weights(batch)["acoustic_kept"] == 3 * total


def test_kept_frames_keep_their_ids(batch, dropping):
    index, frames, valid = _kept(dropping, batch, KEY)
    for row in range(ROWS):
        by_index = dict(zip(batch["frame_index"][row], batch["frames"][row].tolist(), strict=True))
        real = {i: by_index[i] for i in index[row][valid[row]]}
        got = zip(index[row][valid[row]], frames[row][valid[row]].tolist(), strict=True)
        assert dict(got) == real


@pytest.mark.parametrize("percent", [10, 25, 30, 50, 70, 75])
def test_counts_of_long_segments_are_exact(percent):
    """The floor of n (1 - p) + 1 in float32 is that of exact arithmetic."""
    objective = _objective(local_drop=percent / 100)
    lengths = np.append(np.arange(2, 758, 13), [100, 751])
    segments = np.zeros((len(lengths), lengths.max()), np.int32)
    for row, n in zip(segments, lengths, strict=True):
        row[:n] = 1
    scores = np.random.default_rng(0).random(segments.shape, np.float32)
    counts = objective._keep(segments, scores).sum(axis=1)
    np.testing.assert_array_equal(counts, lengths * (100 - percent) // 100 + 1)


def test_without_rate_nothing_is_dropped(plain, dropping, batch, evaluate):
    assert plain.kept_frames == BUDGET
    assert evaluate(plain, batch, train=True)[0] == evaluate(plain, batch)[0]


def test_semantic_loss_is_untouched(plain, dropping, batch, evaluate):
    want = evaluate(plain, batch)[1]
    got = evaluate(dropping, batch, train=True)[1]
    np.testing.assert_allclose(got["nll_semantic"], want["nll_semantic"], rtol=1e-6)
    assert got["nll_acoustic"][1] < want["nll_acoustic"][1]


def test_the_loss_over_kept_frames_is_unbiased(dropping, pack_rows, segments, params):
    """Rows of one segment, where the mean over kept frames estimates that over all."""
    batch = pack_rows([row[:1] for row in segments[:2]] * 2, LENGTH, BUDGET)
    batch = {name: value[:1] for name, value in batch.items()}
    weights = dropping.weights(batch)

    @jax.jit
    def losses(keys):
        def one(key):
            total, count = dropping.loss(params, batch, key, weights, True)[1]["nll_acoustic"]
            return total / count

        return jax.vmap(one)(keys)

    sampled = np.asarray(losses(jax.random.split(KEY, 200)))
    total, count = dropping.loss(params, batch, KEY, weights, False)[1]["nll_acoustic"]
    error = float(sampled.std()) / len(sampled) ** 0.5
    assert sampled.std() > 0.01  # the frames differ, so that a biased choice would show
    assert sampled.mean() == pytest.approx(float(total / count), abs=4 * error)


def test_every_frame_is_kept_equally_often(dropping, batch):
    """The end frame, the first frame and the others alike, within each segment."""
    keys = jax.random.split(KEY, 600)
    index, _, valid = jax.jit(jax.vmap(lambda key: dropping._drop_frames(batch, key)))(keys)
    for row in range(ROWS):
        kept = np.bincount(np.asarray(index)[:, row][np.asarray(valid)[:, row]], minlength=LENGTH)
        for number in range(1, batch["frame_segments"][row].max() + 1):
            at = batch["frame_index"][row][batch["frame_segments"][row] == number]
            share = min(1, math.floor(len(at) / 2 + 1) / len(at))
            noise = 4.5 * (share * (1 - share) / len(keys)) ** 0.5
            np.testing.assert_allclose(kept[at] / len(keys), share, atol=noise + 1e-9)


def test_the_local_net_runs_on_a_static_part_of_the_frames():
    """K is fixed by the configuration and smaller than the budget, and FLOPs follow it."""
    data = {"frame_budget": 640, "batch_size": 2, "sequence_length": 1024}
    whole, half = _objective(data), _objective(data, local_drop=0.5)
    assert whole.kept_frames == 640
    assert 320 < half.kept_frames < 640
    ratio = half.kept_frames / 640
    for part in ("local", "local_attention", "acoustic_head", "projector"):
        assert half.flops()[part] == pytest.approx(ratio * whole.flops()[part])
    assert half.flops()["global"] == whole.flops()["global"]


def test_rows_of_very_many_segments_lose_no_frame_silently(pack_rows, random_part):
    """More segments than the static budget is made for: what is counted is what is computed."""
    rng, many = np.random.default_rng(0), 140
    row = [segment_tokens(LAYOUT, [random_part(LAYOUT, rng, 1, 1)]) for _ in range(many)]
    objective = _objective(
        {"frame_budget": 300, "batch_size": 2, "sequence_length": 600}, local_drop=0.5
    )
    batch = pack_rows([row, row[:3]], 600, 300)
    kept = _kept(objective, batch, KEY)[2].sum()
    assert 3 * kept == objective.weights(batch)["acoustic_kept"]


# The interface to the training loop


def test_the_batch_spec_is_that_of_the_loader(plain, batch):
    spec = plain.batch_spec()
    assert set(spec) == set(batch)
    for name, value in batch.items():
        assert (spec[name].shape, spec[name].dtype) == (value.shape, value.dtype)


def test_rates_count_predictions_and_seconds(plain, batch):
    rates = plain.rates(batch)
    frames = 6 + 8 + 4 + 18 + 3 + 3 + 12 + 1
    assert rates["audio_seconds"] == pytest.approx(frames / 75)
    assert rates["tokens"] == (batch["semantic_targets"] >= 0).sum() + 3 * (frames + 8)


@pytest.mark.parametrize(
    ("data", "model", "field"),
    [
        ({"positions": "running"}, {}, "positions"),
        ({}, {"block": "paper"}, "positions"),
        ({"positions": "running"}, {"block": "paper", "max_positions": 126}, "max_positions"),
    ],
)
def test_configurations_that_cannot_run_are_refused(data, model, field):
    with pytest.raises(ConfigError, match=field):
        _objective(data, **model)


def test_a_dataset_of_other_streams_is_refused(plain):
    class Spec:
        def layout(self):
            return dataclasses.replace(LAYOUT, num_units=12)

    with pytest.raises(ConfigError, match="num_units=12"):
        plain.check_dataset(Spec())
