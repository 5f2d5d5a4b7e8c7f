"""Codebook patterns: what predicts what, packed rows, probabilities, and what is refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.tokens import TokenLayout, segment_tokens
from gpst_jax.config import ConfigError, GPSTConfig, TransformerConfig
from gpst_jax.models import gpst, patterns

LAYOUT = TokenLayout(num_units=11, num_codebooks=3, codebook_size=5, unit_rate=50, frame_rate=75)
NETS = TransformerConfig(16, 2, 2, 24), TransformerConfig(8, 1, 2, 12)
NAMES = ("hierarchical", "flat", "delay", "parallel")
FLAT_NAMES = NAMES[1:]


def _earlier(pattern, frame, codebook, other_frame, other_codebook):
    """Whether the prediction of (frame, codebook) reads another code, by the pattern's paper."""
    if pattern == "parallel":
        return other_frame < frame
    if pattern == "delay":
        return other_frame + other_codebook < frame + codebook
    return (other_frame, other_codebook) < (frame, codebook)


class Toy:
    """A model of one pattern and its logits under teacher forcing."""

    def __init__(self, pattern, block, random_params, layout=LAYOUT):
        self.config = GPSTConfig(*NETS, pattern=pattern, block=block, max_positions=100)
        self.layout = layout
        self.positions = "time" if block == "modern" else "running"
        self.params = random_params(self.config, layout)
        self.model = gpst.bind(self.config, layout, self.params)
        self.logits = jax.jit(self._logits)

    def segment(self, part):
        return segment_tokens(self.layout, [part], positions=self.positions)

    def _logits(self, batch):
        """Of units (B, L, V_s) and of codes (B, F, Q, classes)."""
        line = self.model.arrange(batch)
        hidden = self.model.hidden(*line.inputs)
        codes = self.model.code_logits(hidden, line.frame_index, batch["frames"])
        codes = codes.reshape(*batch["frames"].shape, -1)
        return self.model.semantic_logits(line.of_row(hidden)), codes


@pytest.fixture(scope="module", params=[*FLAT_NAMES, "flat-paper", "delay-paper"])
def toy(request, random_params):
    pattern, _, block = request.param.partition("-")
    return Toy(pattern, block or "modern", random_params)


def test_every_code_reads_exactly_what_its_pattern_says(toy, pack_rows, random_part):
    """Row 1 + n changes code n; the logits that change are those of the codes that read it."""
    units, codes = random_part(LAYOUT, np.random.default_rng(0), 3, 4)
    parts = [(units, codes)]
    for frame, codebook in itertools.product(range(4), range(3)):
        changed = codes.copy()
        changed[codebook, frame] = (changed[codebook, frame] + 1) % 5
        parts.append((units, changed))
    units = units.copy()
    units[1] = (units[1] + 1) % 11
    parts.append((units, codes))
    batch = pack_rows([[toy.segment(part)] for part in parts], 16, 6)
    semantic, acoustic = (np.asarray(x) for x in toy.logits(batch))
    changes = np.abs(acoustic[1:] - acoustic[:1]).max(axis=-1)[:, :5] > 1e-6
    for (other_frame, other_codebook), found in zip(
        itertools.product(range(4), range(3)), changes[:-1], strict=True
    ):
        wanted = [
            [_earlier(toy.config.pattern, t, q, other_frame, other_codebook) for q in range(3)]
            for t in range(5)
        ]
        np.testing.assert_array_equal(found, wanted)
    assert changes[-1].all()  # every code reads every unit
    np.testing.assert_array_equal(semantic[1:-1, :4], np.broadcast_to(semantic[0, :4], (12, 4, 15)))


def test_gradients_are_causal_and_stay_in_their_segment(toy, pack_rows, random_part):
    """Of one code's logits, with respect to every position of the line."""
    rng = np.random.default_rng(1)
    row = [toy.segment(random_part(LAYOUT, rng, *size)) for size in ((2, 3), (3, 2))]
    batch = pack_rows([row], 18, 8)
    line, model = toy.model.arrange(batch), toy.model
    x = model.embed(*line.inputs[:3])
    segment_ids = line.inputs[3]
    first = int(line.frame_index[0, 5])  # the second frame of the second segment

    @jax.jit
    @jax.grad
    def gradient(x, codebook):
        context = model.context(line.inputs[1], segment_ids=segment_ids)
        hidden = model.global_net(x, context)
        return model.code_logits(hidden, line.frame_index, batch["frames"])[5, codebook, 3]

    for codebook in (0, 2):
        found = np.abs(gradient(x, codebook)[0]).max(axis=-1) > 0
        last = first + codebook * (toy.config.pattern != "parallel")
        at = np.arange(len(found))
        np.testing.assert_array_equal(found, (np.asarray(segment_ids[0]) == 2) & (at <= last))


def test_packed_segments_are_predicted_as_alone(toy, pack_rows, random_part):
    rng = np.random.default_rng(2)
    sizes = ((3, 4), (1, 0), (4, 6), (2, 2))
    segments = [toy.segment(random_part(LAYOUT, rng, *size)) for size in sizes]
    # All of them in the first row, which is full but for what a pattern needs.
    length = sum(units + frames + 2 for units, frames in sizes)
    length += len(sizes) * toy.model.arrangement.spare_positions(3)
    batch = pack_rows([segments, *([segment] for segment in segments)], length, 16)
    semantic, acoustic = (np.asarray(x) for x in toy.logits(batch))
    position = frame = 0
    for row, (units, frames) in enumerate(sizes, start=1):
        np.testing.assert_allclose(
            semantic[0, position : position + units + 1], semantic[row, : units + 1], atol=1e-4
        )
        np.testing.assert_allclose(
            acoustic[0, frame : frame + frames + 1], acoustic[row, : frames + 1], atol=1e-4
        )
        position, frame = position + units + frames + 2, frame + frames + 1


@pytest.mark.parametrize("pattern", FLAT_NAMES)
def test_probabilities_of_all_sequences_of_two_frames_sum_to_1(pattern, random_params):
    """All 7^4 sequences of two frames of two codebooks of three codes, specials included."""
    layout = TokenLayout(num_units=3, num_codebooks=2, codebook_size=3)
    toy = Toy(pattern, "modern", random_params, layout)
    classes = np.array(list(itertools.product(range(7), repeat=4))).reshape(-1, 2, 2)
    frames = np.concatenate([classes + np.array([0, 3]), np.full((len(classes), 1, 2), 2)], axis=1)
    segment = toy.segment((np.array([1]), np.zeros((2, 2), int)))
    batch = {}
    for name in ("positions", "streams", "semantic_targets", "frame_index"):
        batch[name] = np.broadcast_to(segment[name], (len(classes), len(segment[name])))
    tokens = np.broadcast_to(segment["tokens"], (len(classes), 5, 2)).copy()
    tokens[:, 3:] = frames[:, :2] + layout.semantic_vocab
    batch |= {"tokens": tokens, "frames": frames, "frame_segments": np.ones((len(classes), 3), int)}
    batch["segment_ids"] = np.ones((len(classes), 5), int)
    spare = ((0, 0), (0, 1))  # of the delay pattern
    for name in ("positions", "streams", "segment_ids"):
        batch[name] = np.pad(batch[name], spare)
    batch["tokens"] = np.pad(batch["tokens"], (*spare, (0, 0)), constant_values=1)

    log_probs = jax.nn.log_softmax(toy.logits(batch)[1])[:, :2]
    chosen = jnp.take_along_axis(log_probs, jnp.asarray(classes)[..., None], axis=-1)
    probabilities = np.exp(chosen.sum((1, 2, 3)))
    assert probabilities.std() > 0.1 * probabilities.mean()
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("pattern", FLAT_NAMES)
def test_other_patterns_have_no_local_transformer(pattern):
    config = GPSTConfig(*NETS, pattern=pattern)
    shapes = jax.eval_shape(lambda key: gpst.init(config, LAYOUT, key), jax.random.key(0))
    assert set(shapes) == {"global_net", "semantic_head", "acoustic_head", "streams"}
    assert shapes["acoustic_head"]["kernel"].shape == (3, 16, LAYOUT.acoustic_classes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pattern": "diagonal"}, "pattern"),
        ({"pattern": "flat", "local_drop": 0.5}, "local_drop.*no local transformer"),
        (
            {"pattern": "delay", "shared_acoustic_head": True},
            "shared_acoustic_head.*head of its own",
        ),
        ({"pattern": "parallel", "shared_acoustic_head": True}, "shared_acoustic_head"),
    ],
)
def test_what_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        GPSTConfig(*NETS, **fields)


@pytest.mark.parametrize("pattern", NAMES)
def test_seconds_in_a_table_are_those_of_the_longest_segment(pattern):
    """A segment of exactly so many seconds fits, with its starts and its end."""
    arrangement = patterns.arrangement(pattern)
    for seconds in (2, 4):
        units, frames = 50 * seconds, 75 * seconds
        longest = 1 + units + arrangement.positions(frames + 1, 3)
        assert patterns.seconds_in(pattern, longest, LAYOUT, 75.0) == pytest.approx(seconds)
