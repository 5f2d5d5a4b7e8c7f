"""The model's structure: embeddings, causality, packing, positions, sizes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.tokens import EOS, TokenLayout, segment_tokens
from gpst_jax.config import GPSTConfig, TransformerConfig
from gpst_jax.models import gpst
from gpst_jax.models.transformer import AttentionContext

LAYOUT = TokenLayout(num_units=11, num_codebooks=3, codebook_size=5, unit_rate=50, frame_rate=75)
UNITS, FRAMES = 4, 6
INPUTS = ("tokens", "positions", "streams", "segment_ids")
LENGTH, BUDGET = 32, 18  # two segments of UNITS and FRAMES, and padding


class Outputs(NamedTuple):
    """The outputs of the model for a batch."""

    hidden: np.ndarray  # (B, L, D)
    semantic: np.ndarray  # (B, L, V_s)
    acoustic: np.ndarray  # (B, F, Q, classes)


def _config(block, **changes):
    nets = TransformerConfig(32, 2, 4, 48), TransformerConfig(16, 2, 2, 24)
    return GPSTConfig(*nets, block=block, max_positions=64, **changes)


class Toy:
    """A model of one block type with its jitted forward pass."""

    def __init__(self, config, params):
        self.config, self.params = config, params
        self.positions = "running" if config.block == "paper" else "time"
        self._forward = jax.jit(self._run)

    def model(self):
        return gpst.bind(self.config, LAYOUT, self.params)

    def _run(self, params, batch):
        model = gpst.bind(self.config, LAYOUT, params)
        hidden = model.hidden(*(batch[name] for name in INPUTS))
        picked = jnp.take_along_axis(hidden, batch["frame_index"][..., None], axis=1)
        rows, frames, depth = batch["frames"].shape
        local = model.local_hidden(
            picked.reshape(rows * frames, -1), batch["frames"].reshape(-1, depth)
        )
        acoustic = model.acoustic_logits(local).reshape(rows, frames, depth, -1)
        return Outputs(hidden, model.semantic_logits(hidden), acoustic)

    def __call__(self, batch):
        return Outputs(*map(np.asarray, self._forward(self.params, batch)))

    def segment(self, units, codes):
        return segment_tokens(LAYOUT, [(units, codes)], positions=self.positions)


@pytest.fixture(scope="module")
def toys(random_params):
    """A toy model of each block type."""
    configs = {block: _config(block) for block in ("paper", "modern")}
    return {name: Toy(config, random_params(config, LAYOUT)) for name, config in configs.items()}


@pytest.fixture(scope="module", params=["paper", "modern"])
def toy(request, toys):
    """Each toy model in turn."""
    return toys[request.param]


@pytest.fixture(scope="module")
def modern(toys):
    """The toy model of the modern block."""
    return toys["modern"]


@pytest.fixture(scope="module")
def parts(random_part):
    """Raw units and codes of two segments."""
    rng = np.random.default_rng(0)
    return [random_part(LAYOUT, rng, UNITS, FRAMES) for _ in range(2)]


@pytest.fixture(scope="module")
def forward(toy, pack_rows):
    """Function from the parts of one row to the outputs of that row."""

    def run(*row):
        batch = pack_rows([[toy.segment(*part) for part in row]], LENGTH, BUDGET)
        return Outputs(*(value[0] for value in toy(batch)))

    return run


def _other(values, *index, size):
    changed = values.copy()
    changed[index] = (changed[index] + 1) % size
    return changed


# Embedding


def test_global_input_is_the_scaled_sum_of_embeddings(toy, parts):
    model, segment = toy.model(), toy.segment(*parts[0])
    ids, times, streams = (segment[name] for name in ("tokens", "positions", "streams"))
    got = model.embed(ids[None], times[None], streams[None])[0]
    params = jax.tree.map(np.asarray, toy.params)
    table = params["global_net"]["embed"]["embedding"]
    for t, frame in enumerate(ids):
        want = sum(table[i] * 32**0.5 for i in frame if i != 1)
        if toy.config.block == "paper":
            want = want + params["global_net"]["positions"]["embedding"][t]
        else:
            want = want + params["streams"]["embedding"][streams[t]]
        np.testing.assert_allclose(got[t], want, atol=1e-5)


def test_padding_slots_add_exactly_zero(toy):
    table = toy.params["global_net"]["embed"]["embedding"]
    assert np.abs(table[1]).max() > 0  # the row itself is not zero here
    assert (np.asarray(toy.model().global_net.lookup(jnp.array([1, 1]))) == 0).all()


def test_codebooks_have_rows_of_their_own(toy):
    """The same codes in other codebooks give another sum."""
    ids = LAYOUT.codes_to_ids(np.array([[0, 1], [1, 0], [2, 2]])) + LAYOUT.semantic_vocab
    first, second = toy.model().global_net.lookup(jnp.asarray(ids)).sum(1)
    assert np.abs(first - second).max() > 0.1


def test_local_input_holds_the_hidden_state_and_earlier_codes(toy):
    model, params = toy.model(), jax.tree.map(np.asarray, toy.params)
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(2, 32)).astype(np.float32)
    ids = LAYOUT.codes_to_ids(rng.integers(5, size=(3, 2)))
    got = model.local_inputs(jnp.asarray(hidden), jnp.asarray(ids))
    positions, table = (params["local_net"][n]["embedding"] for n in ("positions", "embed"))
    projector = params["projector"]
    want = [hidden @ projector["kernel"] + projector["bias"] + positions[0]]
    want += [4.0 * table[ids[:, q - 1]] + positions[q] for q in (1, 2)]
    np.testing.assert_allclose(got, np.stack(want, axis=1), atol=1e-5)


def test_heads_of_the_codebooks(toy):
    """One matrix per codebook."""
    x = jax.random.normal(jax.random.key(1), (4, 3, 16))
    model = toy.model()
    whole = model.acoustic_logits(x)
    assert whole.dtype == jnp.float32
    kernel = toy.params["acoustic_head"]["kernel"]
    for q in range(3):
        np.testing.assert_allclose(x[:, q] @ kernel[q], whole[:, q], atol=1e-5)
    same = model.acoustic_logits(jnp.broadcast_to(x[:, :1], x.shape))
    assert np.abs(same[:, 0] - same[:, 1]).max() > 0.1


def test_the_shared_head_is_one_matrix(random_params):
    config = _config("modern", shared_acoustic_head=True)
    model = Toy(config, random_params(config, LAYOUT)).model()
    x = jnp.broadcast_to(jax.random.normal(jax.random.key(1), (4, 1, 16)), (4, 3, 16))
    logits = model.acoustic_logits(x)
    np.testing.assert_allclose(logits[:, 0], logits[:, 2], atol=1e-6)


def test_target_classes_are_those_of_the_layout(toy):
    ids = np.concatenate([LAYOUT.codes_to_ids(np.tile(np.arange(5), (3, 1))), [[EOS] * 3]])
    got = toy.model().targets(jnp.asarray(ids))
    np.testing.assert_array_equal(got, LAYOUT.ids_to_classes(ids))
    assert got[-1].tolist() == [2, 2, 2]


# Causality


@pytest.mark.parametrize("t", range(FRAMES))
def test_a_code_is_seen_only_by_what_follows_it(forward, parts, t):
    (units, codes), _ = parts
    before = forward((units, codes))
    at = UNITS + 2 + t  # the position whose input is frame t
    for q in range(3):
        after = forward((units, _other(codes, q, t, size=5)))
        # Global: h_1 .. h_t (which predict frames up to t) are the same, bit for bit.
        np.testing.assert_array_equal(after.hidden[:at], before.hidden[:at])
        assert np.abs(after.hidden[at] - before.hidden[at]).max() > 1e-4
        # Local: frames before, and codebooks up to q of frame t itself.
        np.testing.assert_array_equal(after.acoustic[:t], before.acoustic[:t])
        np.testing.assert_array_equal(after.acoustic[t, : q + 1], before.acoustic[t, : q + 1])
        for later in range(q + 1, 3):
            assert np.abs(after.acoustic[t, later] - before.acoustic[t, later]).max() > 1e-5
        for later in range(t + 1, FRAMES + 1):
            assert np.abs(after.acoustic[later] - before.acoustic[later]).max() > 1e-5


def test_semantic_logits_do_not_depend_on_codes(forward, parts):
    (units, codes), (_, others) = parts
    one, two = forward((units, codes)), forward((units, others))
    np.testing.assert_array_equal(one.semantic[: UNITS + 1], two.semantic[: UNITS + 1])


@pytest.mark.parametrize("s", range(UNITS))
def test_a_unit_is_seen_by_later_units_and_by_all_frames(forward, parts, s):
    (units, codes), _ = parts
    before, after = forward((units, codes)), forward((_other(units, s, size=11), codes))
    np.testing.assert_array_equal(after.semantic[: s + 1], before.semantic[: s + 1])
    assert np.abs(after.semantic[s + 1] - before.semantic[s + 1]).max() > 1e-4
    change = np.abs(after.acoustic[: FRAMES + 1] - before.acoustic[: FRAMES + 1])
    assert (change.max(axis=(1, 2)) > 1e-5).all()


def test_packed_segments_do_not_see_each_other(forward, parts):
    first, second = parts
    both, alone = forward(first, second), forward(first)
    n, k = UNITS + FRAMES + 2, FRAMES + 1
    np.testing.assert_array_equal(both.hidden[:n], alone.hidden[:n])
    np.testing.assert_array_equal(both.acoustic[:k], alone.acoustic[:k])
    changed = forward((first[0][::-1], first[1][:, ::-1]), second)
    np.testing.assert_array_equal(changed.hidden[n : 2 * n], both.hidden[n : 2 * n])
    np.testing.assert_array_equal(changed.acoustic[k : 2 * k], both.acoustic[k : 2 * k])
    # Places in the row do not matter either: only segment-relative positions enter.
    moved = forward(second)
    np.testing.assert_allclose(both.hidden[n : 2 * n], moved.hidden[:n], atol=1e-5)
    np.testing.assert_allclose(both.acoustic[k : 2 * k], moved.acoustic[:k], atol=1e-5)


def test_padding_changes_nothing(toy, pack_rows, parts, random_part):
    """A short item gives the same padded beside a long one as alone and unpadded."""
    short, long = parts[0], random_part(LAYOUT, np.random.default_rng(5), 7, 13)
    rows = [[toy.segment(*short)], [toy.segment(*long)]]
    padded = toy(pack_rows(rows, LENGTH, BUDGET))
    alone = toy(pack_rows(rows[:1], UNITS + FRAMES + 2, FRAMES + 1))
    n, k = UNITS + FRAMES + 2, FRAMES + 1
    np.testing.assert_allclose(padded.semantic[0, :n], alone.semantic[0], atol=1e-5)
    np.testing.assert_allclose(padded.acoustic[0, :k], alone.acoustic[0], atol=1e-5)
    assert all(np.isfinite(value).all() for value in padded)


def test_global_gradients_respect_time_and_segments(toy, pack_rows, parts):
    """The Jacobian of hidden i by input j is zero exactly unless j <= i in the same segment."""
    batch = pack_rows([[toy.segment(*part) for part in parts]], LENGTH, BUDGET)
    model = toy.model()
    x = model.embed(batch["tokens"], batch["positions"], batch["streams"])
    context = model.context(jnp.asarray(batch["positions"]), segment_ids=batch["segment_ids"])
    direction = jax.random.normal(jax.random.key(0), (32,))

    @jax.jit
    def jacobian(x):  # (L, L, D): of every position's hidden state along one direction
        return jax.jacrev(lambda x: model.global_net(x, context)[0] @ direction)(x)[:, 0]

    depends = np.abs(jacobian(x)).max(-1) > 0
    segments = batch["segment_ids"][0]
    want = np.tril(segments[:, None] == segments[None])
    real = segments > 0
    np.testing.assert_array_equal(depends[real], want[real])
    # The forward pass under test is that of training.
    hidden = model.hidden(*(batch[name] for name in INPUTS))
    np.testing.assert_allclose(model.global_net(x, context), hidden, atol=1e-5)


def test_local_gradients_respect_codebook_order(toy):
    model = toy.model()
    x = jax.random.normal(jax.random.key(0), (1, 3, 16))
    direction = jax.random.normal(jax.random.key(1), (9,))

    def outputs(x):
        return model.acoustic_logits(model.local_net(x, AttentionContext()))[0] @ direction

    depends = np.abs(jax.jacrev(outputs)(x)[:, 0]).max(-1) > 0
    np.testing.assert_array_equal(depends, np.tril(np.ones((3, 3), bool)))


def test_frames_are_independent_in_the_local_net(toy):
    model, rng = toy.model(), np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(5, 32)), jnp.float32)
    ids = jnp.asarray(LAYOUT.codes_to_ids(rng.integers(5, size=(3, 5))))

    @jax.jit
    def logits(hidden, ids):
        return model.acoustic_logits(model.local_hidden(hidden, ids))

    whole, order = logits(hidden, ids), rng.permutation(5)
    np.testing.assert_allclose(logits(hidden[order], ids[order]), whole[order], atol=1e-5)
    for i in range(5):
        one = logits(hidden[i : i + 1], ids[i : i + 1])
        np.testing.assert_allclose(one[0], whole[i], atol=1e-5)


# Positions


def _shifted(batch, stream, ticks):
    moved = (batch["streams"] == stream) & (batch["segment_ids"] > 0)
    return batch | {"positions": batch["positions"] + ticks * moved}


def test_positions_matter_in_both_blocks(toy, pack_rows, parts):
    batch = pack_rows([[toy.segment(*parts[0])]], LENGTH, BUDGET)
    before = toy(batch)
    for stream in (0, 1):
        after = toy(_shifted(batch, stream, 2))
        assert np.abs(after.acoustic - before.acoustic)[0, :FRAMES].max() > 1e-3


def test_only_differences_of_time_matter_in_the_modern_block(modern, pack_rows, parts):
    batch = pack_rows([[modern.segment(*parts[0])]], LENGTH, BUDGET)
    moved = _shifted(_shifted(batch, 0, 7), 1, 7)
    for one, two in zip(modern(batch), modern(moved), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4)


def test_the_modern_block_does_not_depend_on_row_indices(modern, pack_rows, parts):
    """Reordering a segment with its times does not change positions that attend to the same set.

    The last unit and BOS_a are swapped in the row: the hidden states of later frames attend to the
    same inputs at the same times and stay the same, which row indices would not allow.
    """
    batch = pack_rows([[modern.segment(*parts[0])]], LENGTH, BUDGET)
    order = np.arange(LENGTH)
    order[[UNITS, UNITS + 1]] = order[[UNITS + 1, UNITS]]
    swapped = dict(batch)
    for name in ("tokens", "positions", "streams"):
        swapped[name] = batch[name][:, order]
    model = gpst.bind(_one_layer(), LAYOUT, _first_layer(modern.params))

    one, two = (model.hidden(*(row[name] for name in INPUTS)) for row in (batch, swapped))
    frames = slice(UNITS + 2, UNITS + FRAMES + 2)
    np.testing.assert_allclose(one[0, frames], two[0, frames], atol=1e-5)
    assert np.abs(one[0, UNITS] - two[0, UNITS]).max() > 1e-3


def _one_layer():
    nets = TransformerConfig(32, 1, 4, 48), TransformerConfig(16, 2, 2, 24)
    return GPSTConfig(*nets, block="modern")


def _first_layer(params):
    """With one layer, inputs reach an output directly and not by way of each other."""
    net = params["global_net"]
    first = net | {"layers": jax.tree.map(lambda x: x[:1], net["layers"])}
    return params | {"global_net": first}


# Variants


def test_rematerialisation_changes_no_gradient(modern, pack_rows, parts):
    batch = pack_rows([[modern.segment(*parts[0])]], LENGTH, BUDGET)

    def gradient(config):
        def loss(params):
            hidden = gpst.bind(config, LAYOUT, params).hidden(*(batch[name] for name in INPUTS))
            return hidden.std()

        return jax.jit(jax.grad(loss))(modern.params)

    want = gradient(modern.config)
    for remat in ("dots", "full"):
        got = gradient(_config("modern", remat=remat))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), want, got)


def test_dropout_needs_a_key_and_depends_on_it(toys, pack_rows, parts):
    toy, config = toys["paper"], _config("paper", dropout=0.3)
    batch = pack_rows([[toy.segment(*parts[0])]], LENGTH, BUDGET)

    @jax.jit
    def hidden(key):
        model = gpst.bind(config, LAYOUT, toy.params)
        return model.hidden(*(batch[name] for name in INPUTS), key=key)

    plain = toy(batch).hidden
    one, two = hidden(jax.random.key(1)), hidden(jax.random.key(2))
    np.testing.assert_allclose(hidden(None), plain, atol=1e-5)
    assert np.abs(one - plain).max() > 0.1
    assert np.abs(one - two).max() > 0.1
