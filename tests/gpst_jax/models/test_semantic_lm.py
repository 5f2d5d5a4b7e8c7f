"""The semantic language model: its block, its loss, adapters, meshes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.tokens.vocabulary import Vocabulary
from gpst_jax.config import (
    ConfigError,
    DataConfig,
    GPSTConfig,
    MeshConfig,
    OptimizerConfig,
    RunConfig,
    SemanticLMConfig,
    TransformerConfig,
)
from gpst_jax.config.models import RopeScaling
from gpst_jax.models import attention, lora, semantic_lm, splash_attention
from gpst_jax.models.lora import LoraConfig
from gpst_jax.models.rope import rope_angles
from gpst_jax.objectives import SemanticLMObjective, make_objective
from gpst_jax.objectives.lora import LoraObjective
from gpst_jax.parallel import sharding
from gpst_jax.training.step import init_state, make_train_step

VOCABULARY = Vocabulary(text_size=29, num_units=24)  # 64 ids
NET = TransformerConfig(32, 2, 4, 48, num_kv_heads=2)
ROWS, LENGTH = 8, 32
KEY = jax.random.key(0)
CONFIGS = {
    "modern": SemanticLMConfig(NET),
    "llama": SemanticLMConfig(
        NET, block="llama", tie_embeddings=True, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 16)
    ),
}


@functools.cache
def _objective(name="modern", **changes):
    model = dataclasses.replace(CONFIGS[name], **changes)
    config = RunConfig(
        "toy",
        model,
        DataConfig(batch_size=ROWS, sequence_length=LENGTH),
        OptimizerConfig(learning_rate=1e-2, warmup_steps=5),
    )
    return SemanticLMObjective(config, VOCABULARY)


@functools.cache
def _batch():
    """Three segments a row and padding; the second one's targets count only in its second half."""
    rng = np.random.default_rng(0)
    shape = (ROWS, LENGTH)
    batch = {name: np.zeros(shape, np.int32) for name in _objective().batch_spec()}
    batch["tokens"][:] = rng.integers(0, VOCABULARY.size, shape)
    batch["targets"][:] = -1
    for row in range(ROWS):
        ends = np.sort(rng.choice(np.arange(3, LENGTH - 1), 3, replace=False))
        for number, (start, end) in enumerate(zip([0, *ends[:2]], ends, strict=True), start=1):
            batch["positions"][row, start:end] = np.arange(end - start)
            batch["segment_ids"][row, start:end] = number
            first = start if number != 2 else (start + end) // 2
            batch["targets"][row, first : end - 1] = batch["tokens"][row, first + 1 : end]
    return batch


def _plain_loss(objective, params, batch, train=False):
    return objective.loss(params, batch, KEY, objective.weights(batch), train)


_jitted = jax.jit(_plain_loss, static_argnums=(0, 3))  # programs are shared by the tests


def _loss(objective, params, batch, train=False):
    value, metrics = _jitted(objective, params, batch, train)
    return float(value), metrics


@functools.partial(jax.jit, static_argnums=0)
def _hidden(config, params, tokens, positions, segment_ids):
    return semantic_lm.bind(config, params).hidden(tokens, positions, segment_ids)


@functools.partial(jax.jit, static_argnums=0)
def _logits(config, params, hidden):
    return semantic_lm.bind(config, params).logits(hidden)


INPUTS = ("tokens", "positions", "segment_ids")


def _inputs(batch):
    return tuple(batch[name] for name in INPUTS)


@functools.cache
def _reference(name):
    """Parameters, loss, metrics and gradients on one device."""
    objective = _objective(name)
    params = jax.jit(objective.init)(jax.random.key(1))
    step = jax.jit(jax.value_and_grad(functools.partial(_plain_loss, objective), has_aux=True))
    (loss, metrics), grads = jax.device_get(step(params, _batch()))
    return params, loss, metrics, grads


@pytest.fixture(params=CONFIGS)
def name(request):
    """Each block in turn."""
    return request.param


# The block


def test_grouped_query_attention_repeats_key_heads(name):
    """Grouped heads equal as many heads with equal weights."""
    objective, (params, *_) = _objective(name), _reference(name)
    wide = dataclasses.replace(NET, num_kv_heads=None)
    attn = dict(params["net"]["layers"]["attn"])
    for part in ("k", "v"):
        kernel = attn[part]["kernel"].reshape(2, 32, 2, 8)
        attn[part] = {"kernel": jnp.repeat(kernel, 2, axis=2).reshape(2, 32, 32)}
    if name == "modern":
        attn["k_bias"] = jnp.repeat(attn["k_bias"], 2, axis=1)
    net = params["net"] | {"layers": params["net"]["layers"] | {"attn": attn}}
    inputs = _inputs(_batch())
    repeated = dataclasses.replace(objective.model_config, net=wide)
    expected = _hidden(repeated, params | {"net": net}, *inputs)
    found = _hidden(objective.model_config, params, *inputs)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_grouped_attention_of_every_implementation():
    keys = jax.random.split(KEY, 4)
    query = jax.random.normal(keys[0], (2, 256, 4, 64))
    key, value = (jax.random.normal(k, (2, 256, 2, 64)) for k in keys[1:3])
    segments = jnp.sort(jax.random.randint(keys[3], (2, 256), 1, 4), axis=1)
    mask = (segments[:, :, None] == segments[:, None, :])[:, None]
    expected = jax.nn.dot_product_attention(query, key, value, mask=mask, is_causal=True)
    found = attention.attend(query, key, value, segment_ids=segments, implementation="xla")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    found = splash_attention.attend(query, key, value, segments, interpret=True)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    with jax.set_mesh(sharding.make_mesh(MeshConfig(1, 2, 4))):  # more devices than key heads
        found = jax.jit(functools.partial(splash_attention.attend, interpret=True))(
            query, key, value, segments
        )
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_only_distances_matter_and_segments_are_alone(name):
    """A segment gives the same in its row, alone, and from another position on."""
    objective, (params, *_), batch = _objective(name), _reference(name), _batch()
    hidden = _hidden(objective.model_config, params, *_inputs(batch))
    row = int((batch["segment_ids"] == 2).sum(axis=1).argmax())
    inside = np.flatnonzero(batch["segment_ids"][row] == 2)
    tokens = np.zeros_like(batch["tokens"])
    tokens[0, : len(inside)] = batch["tokens"][row, inside]
    positions = np.broadcast_to(np.arange(LENGTH), tokens.shape)
    for start in (0, 7):
        alone = _hidden(objective.model_config, params, tokens, start + positions, tokens * 0)
        np.testing.assert_allclose(hidden[row, inside], alone[0, : len(inside)], atol=2e-5)
    assert len(inside) > 4


def test_the_future_is_not_seen(name):
    objective, (params, *_), batch = _objective(name), _reference(name), _batch()
    one = np.zeros((ROWS, LENGTH), np.int32)
    positions = np.broadcast_to(np.arange(LENGTH), one.shape)
    before = _hidden(objective.model_config, params, batch["tokens"], positions, one)
    changed = batch["tokens"].copy()
    changed[:, 10] = (changed[:, 10] + 1) % VOCABULARY.size
    after = _hidden(objective.model_config, params, changed, positions, one)
    moved = np.abs(np.asarray(after - before)).max(axis=(0, 2))
    assert (moved[:10] == 0).all()
    assert (moved[10:] > 0).all()


def test_rope_scaling_keeps_high_and_divides_low_frequencies():
    scaling = RopeScaling(8.0, 1.0, 4.0, 64)
    positions = jnp.ones((1, 1), jnp.int32)
    plain = np.asarray(rope_angles(positions, 32, 10_000.0))[0, 0]
    scaled = np.asarray(rope_angles(positions, 32, 10_000.0, scaling))[0, 0]
    periods = 64 * plain / (2 * np.pi)
    np.testing.assert_allclose(scaled[periods >= 4], plain[periods >= 4])
    np.testing.assert_allclose(scaled[periods <= 1], plain[periods <= 1] / 8, rtol=1e-6)
    between = (periods > 1) & (periods < 4)
    assert {(periods > 4).any(), (periods < 1).any(), between.any()} == {True}
    assert (scaled[between] < plain[between]).all()
    assert (scaled[between] > plain[between] / 8).all()


# The loss


def test_the_loss_is_the_mean_over_the_targets_and_metrics_divide_it(name):
    objective, batch = _objective(name), _batch()
    params, loss, metrics, _ = _reference(name)
    config = objective.model_config
    hidden = _hidden(config, params, *_inputs(batch))
    log_probs = np.asarray(jax.nn.log_softmax(_logits(config, params, hidden)))
    sums = {"nll_text": [], "nll_units": []}
    for row, at in np.argwhere(batch["targets"] >= 0):
        target = batch["targets"][row, at]
        kind = "nll_units" if target >= VOCABULARY.unit_start else "nll_text"
        sums[kind].append(-log_probs[row, at, target])
    for kind, values in sums.items():
        assert metrics[kind][0] == pytest.approx(sum(values), rel=1e-5)
        assert metrics[kind][1] == len(values) > 10
    assert loss == pytest.approx(np.mean(sums["nll_text"] + sums["nll_units"]), rel=1e-5)


def test_what_is_no_target_has_no_gradient(name):
    """Changing the inputs behind the last target of every row changes nothing."""
    objective, (params, loss, *_), batch = _objective(name), _reference(name), _batch()
    tokens = batch["tokens"].copy()
    for row in range(ROWS):
        last = np.flatnonzero(batch["targets"][row] >= 0).max()
        tokens[row, last + 1 :] = 0
    assert (tokens != batch["tokens"]).any()
    assert _loss(objective, params, batch | {"tokens": tokens})[0] == pytest.approx(loss, rel=1e-6)
    nothing = batch | {"targets": np.full_like(batch["targets"], -1)}
    assert _loss(objective, params, nothing)[0] == 0.0


def test_smoothing_and_dropout(name):
    objective, (params, loss, metrics, _) = _objective(name), _reference(name)
    smoothed = _objective(name, label_smoothing=0.1)
    value, others = _loss(smoothed, params, _batch())
    assert value != pytest.approx(loss, rel=1e-4)
    for kind, pair in metrics.items():
        np.testing.assert_allclose(others[kind], pair, rtol=1e-5)
    dropping = _objective(name, dropout=0.3)
    assert _loss(dropping, params, _batch())[0] == pytest.approx(loss, rel=1e-5)
    assert abs(_loss(dropping, params, _batch(), train=True)[0] - loss) > 1e-3
    assert _loss(objective, params, _batch(), train=True)[0] == pytest.approx(loss, rel=1e-5)


def test_the_z_loss_is_that_of_the_normalisers():
    name = "llama"
    objective, (params, loss, metrics, _) = _objective(name, z_loss=0.01), _reference(name)
    batch = _batch()
    config = objective.model_config
    logits = np.asarray(_logits(config, params, _hidden(config, params, *_inputs(batch))))
    normalisers = np.log(np.exp(logits.astype(np.float64)).sum(axis=-1))
    penalties = 0.01 * np.square(normalisers[batch["targets"] >= 0])
    value, others = _loss(objective, params, batch)
    assert value - loss == pytest.approx(penalties.mean(), rel=1e-4)
    assert tuple(map(float, others["z_loss"])) == pytest.approx(
        (penalties.sum(), penalties.size), rel=1e-5
    )
    assert set(others) - set(metrics) == {"z_loss"}


def test_jit_changes_nothing_and_bfloat16_little():
    name = "llama"
    params, loss, *_ = _reference(name)
    plain, _ = _plain_loss(_objective(name), params, _batch())
    assert float(plain) == pytest.approx(loss, rel=1e-6)
    assert _loss(_objective(name, dtype="bfloat16"), params, _batch())[0] == pytest.approx(
        loss, rel=0.02
    )


def test_counts(name):
    objective, (params, *_), batch = _objective(name), _reference(name), _batch()
    rates = objective.rates(batch)
    targets = batch["targets"]
    assert rates["tokens"] == (targets >= 0).sum()
    assert rates["audio_seconds"] == pytest.approx((targets >= VOCABULARY.unit_start).sum() / 50)
    matrices = {
        sharding.path_string(path): leaf
        for path, leaf in jax.tree.leaves_with_path(params)
        if sharding.path_string(path).endswith("kernel")
    }
    weights = sum(leaf.size for path, leaf in matrices.items() if "layers" in path)
    flops, positions = objective.flops(), ROWS * LENGTH
    assert flops["net"] == 6 * positions * weights
    assert flops["head"] == 6 * positions * 32 * VOCABULARY.size
    # Two products forward, four backward, over half of the pairs, in each of two layers.
    assert flops["attention"] == 6 * 2 * (ROWS * LENGTH**2 / 2) * 32 * 2


def test_it_learns_to_copy():
    """Units that repeat the text before them: nothing of it is known at first, all at the end."""
    objective = _objective("llama", tie_embeddings=False)
    mesh = sharding.make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    rng = np.random.default_rng(0)
    half = LENGTH // 2
    positions = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (ROWS, LENGTH))
    with jax.set_mesh(mesh):
        state = init_state(objective, objective.config, mesh)
        step = make_train_step(objective, objective.config, mesh)
        for _ in range(150):
            text = rng.integers(0, 12, (ROWS, half))
            tokens = np.concatenate([text, VOCABULARY.unit_start + text], axis=1).astype(np.int32)
            targets = np.full_like(tokens, -1)
            targets[:, half - 1 : -1] = tokens[:, half:]
            batch = {"tokens": tokens, "targets": targets, "positions": positions}
            state, report = step(state, batch | {"segment_ids": np.ones_like(tokens)})
    total, count = report.pairs["nll_units"]
    assert total / count < 0.5
    assert report.pairs["nll_text"][1] == 0


def test_other_datasets_are_refused():
    objective = _objective()
    with pytest.raises(ConfigError, match="vocabulary"):
        objective.check_dataset(object())
    with pytest.raises(ConfigError, match=r"data.path: .* holds no sequences"):
        make_objective(objective.config, object(), "somewhere")
    net = TransformerConfig(32, 1, 2, 48)
    with pytest.raises(ConfigError, match=r"model\.family"):
        SemanticLMObjective(RunConfig("toy", GPSTConfig(net, net)), VOCABULARY)


# Adapters


PUBLISHED = LoraConfig(rank=8, alpha=16.0, targets=(r"layers/attn/[qv]/kernel$",))


def test_adapters_of_queries_and_values(name):
    """As in arXiv 2305.11000, section 4.2: rank 8, alpha 16; only they learn, and merge exactly."""
    base_params, loss, *_ = _reference(name)
    wrapped = LoraObjective(_objective(name), PUBLISHED)
    params = wrapped.adapt(base_params, jax.random.key(2))
    assert _loss(wrapped, params, _batch())[0] == pytest.approx(loss, rel=1e-6)

    def frozen(path, leaf):
        learns = wrapped.trainable(sharding.path_string(path))
        return leaf if learns else jax.lax.stop_gradient(leaf)

    def value(params):
        return _plain_loss(wrapped, jax.tree.map_with_path(frozen, params), _batch())[0]

    grads = jax.jit(jax.grad(value))(params)
    moved = {
        sharding.path_string(path)
        for path, leaf in jax.tree.leaves_with_path(grads)
        if np.abs(leaf).max() > 0
    }
    # While B is zero, no gradient reaches A.
    assert moved == {f"lora/net/layers/attn/{part}/kernel/b" for part in "qv"}

    noisy = params | {"lora": jax.tree.map(lambda leaf: leaf + 0.05, params["lora"])}
    merged = lora.merge(noisy, PUBLISHED)
    unmerged = _loss(wrapped, noisy, _batch())[0]
    assert _loss(wrapped.objective, merged, _batch())[0] == pytest.approx(unmerged, rel=1e-6)
    assert abs(unmerged - loss) > 1e-4


# Meshes


@pytest.mark.parametrize(
    ("name", "sizes", "remat"),
    [
        ("modern", (1, 8, 1), "none"),
        ("llama", (2, 2, 2), "dots"),
        ("llama", (1, 2, 4), "full"),  # more devices than heads of keys
    ],
)
def test_meshes_give_the_gradients_of_one_device(name, sizes, remat):
    params, loss, _, grads = _reference(name)
    mesh = sharding.make_mesh(MeshConfig(*sizes))
    where = sharding.parameter_shardings(mesh, params)
    with jax.set_mesh(mesh):
        step = jax.jit(
            jax.value_and_grad(
                functools.partial(_plain_loss, _objective(name, remat=remat)), has_aux=True
            ),
            in_shardings=(where, sharding.batch_sharding(mesh)),
        )
        found = jax.device_get(step(jax.device_put(params, where), _batch()))
    assert found[0][0] == pytest.approx(loss, rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-3), found[1], grads
    )


def test_large_parameters_are_sharded():
    mesh = sharding.make_mesh(MeshConfig(1, 4, 2))
    shapes = jax.eval_shape(_objective().init, KEY)
    where = sharding.parameter_shardings(mesh, shapes)
    assert where["head"]["kernel"].spec == jax.P("fsdp", "tensor")
    assert where["embed"]["embedding"].spec == jax.P("tensor", "fsdp")
    assert where["net"]["layers"]["attn"]["k"]["kernel"].spec == jax.P(None, "fsdp", "tensor")
