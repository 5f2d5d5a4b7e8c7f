"""A model of frames alone: trained, scored and sampled alike, and refused what renders units."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from stored_model import CODES, UNITS, make_config, make_dataset, random_params

from data_pipeline.loading.token_rows import build_row
from data_pipeline.packing.token_plan import PackingConfig
from data_pipeline.runtime.errors import UserError
from data_pipeline.tokens import ACOUSTIC
from gpst_jax.checkpoints.manager import Loaded
from gpst_jax.config import ConfigError, GPSTConfig
from gpst_jax.evaluation.likelihood.gpst import GPSTScorer
from gpst_jax.generation.config import SamplingConfig
from gpst_jax.generation.gpst_modes import MODES_WITHOUT_UNITS, RequestBuilder, check_modes
from gpst_jax.generation.gpst_sampler import Decoder
from gpst_jax.models import gpst
from gpst_jax.objectives import make_objective

PATTERNS = ["hierarchical", "flat", "delay", "parallel"]


class Model:
    """A toy model of frames alone, of one pattern, with random parameters."""

    def __init__(self, directory, pattern, block):
        self.spec = make_dataset(directory, 2)
        config = make_config(directory, block, pattern=pattern)
        self.config = config.override(["data.units=none", "model.max_positions=300"])
        self.params = random_params(self.config, self.spec)
        dataset = json.loads(json.dumps(dataclasses.asdict(self.spec)))
        self.loaded = Loaded(self.params, self.config, dataset, 4, "GPSTObjective")
        self.layout = self.spec.layout()
        silence = np.array(self.spec.silence.units), np.array(self.spec.silence.codes)
        self.builder = RequestBuilder(self.layout, silence, with_units=False)

    def decoder(self) -> Decoder:
        model = self.config.model_as(GPSTConfig)
        return Decoder(model, self.layout, self.params, self.config.data.positions)


@pytest.fixture(scope="module", params=[*PATTERNS, "hierarchical-paper", "delay-paper"])
def model(request, tmp_path_factory) -> Model:
    pattern, _, block = request.param.partition("-")
    return Model(tmp_path_factory.mktemp(request.param), pattern, block or "modern")


def _speech(rng, frames):
    return rng.integers(UNITS, size=frames // 2), rng.integers(CODES, size=(2, frames))


def test_rows_hold_frames_alone(model):
    rng, data = np.random.default_rng(0), model.config.data
    packing = PackingConfig(data.sequence_length, 70, 0.5, positions=data.positions, units="none")
    segments = [[_speech(rng, 20), _speech(rng, 8)], [_speech(rng, 6)]]
    row = build_row(model.layout, packing, segments)
    starts = np.flatnonzero(row["streams"][:38] != ACOUSTIC)
    np.testing.assert_array_equal(starts, [0, 30])  # BOS_s of each segment, and no unit
    assert (row["semantic_targets"] < 0).all()
    assert (row["frame_segments"] > 0).sum() == 28 + 1 + 6 + 1
    others = [[(units[::-1] * 0, codes) for units, codes in parts] for parts in segments]
    same = build_row(model.layout, packing, others)
    for name, array in row.items():
        np.testing.assert_array_equal(same[name], array)


def test_scores_are_the_sums_of_the_training_loss(model):
    scorer = GPSTScorer(model.loaded)
    assert scorer.streams == ("acoustic_q0", "acoustic_q1")
    rng = np.random.default_rng(0)
    items = [_speech(rng, frames) for frames in (10, 16, 2)]
    scores = dict(scorer.score(items))
    objective = make_objective(model.config, model.spec, model.config.data.path)
    rows = [scorer.row(item, scorer.shape(items[1])) for item in items]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    loss, metrics = jax.jit(objective.loss, static_argnums=4)(
        model.params, batch, jax.random.key(0), objective.weights(batch), False
    )
    assert "nll_semantic" not in metrics
    total, count = map(float, metrics["nll_acoustic"])
    assert float(loss) == pytest.approx(total / count, rel=1e-5)
    assert sum(score.total().nats for score in scores.values()) == pytest.approx(total, rel=1e-5)
    assert objective.flops()["semantic_head"] == 0


def test_sampled_log_probabilities_are_the_scores(model):
    """Cached decoding equals teacher forcing: of speech from nothing, and after given frames."""
    rng = np.random.default_rng(1)
    speech = _speech(rng, 24)
    requests = [
        *(model.builder.unconditional(0.3, item=item) for item in range(3)),
        model.builder.continuation([speech], 0.1, item=3),
        model.builder.further_frames(speech[1][:, :5], 0.2, item=4),
    ]
    assert [request.min_frames for request in requests] == [0, 0, 0, 14, 0]
    assert [request.max_frames for request in requests] == [30, 30, 30, 14, 20]
    results = model.decoder().decode(requests, acoustic=SamplingConfig(temperature=0.9))
    assert results[3].codes.shape == (2, 14)
    # The scores of what was given before, with an end, are not those of what follows it.
    whole, before = [], []
    for request, result in zip(requests, results, strict=True):
        codes = np.concatenate([request.codes, result.codes], axis=1)
        whole.append((speech[0], codes))
        before.append(request.codes.shape[1])
    scorer = GPSTScorer(model.loaded)
    for item, result, given in zip(whole, results, before, strict=True):
        nats = _nats_by_frame(model, scorer, item)
        count = result.codes.shape[1] + result.frames_ended
        wanted = -nats[given : given + count].sum()
        assert result.log_prob_frames == pytest.approx(wanted, abs=1e-3)
        assert not len(result.units)


def _nats_by_frame(model, scorer, item) -> np.ndarray:
    """Of each frame and the end, by the model's logits under teacher forcing."""
    row = {name: value[None] for name, value in scorer.row(item, scorer.shape(item)).items()}
    bound = gpst.bind(model.config.model_as(GPSTConfig), model.layout, model.params)
    line = bound.arrange(row)
    frames = row["frames"]
    logits = bound.code_logits(bound.hidden(*line.inputs), line.frame_index, frames)
    logits = jax.nn.log_softmax(logits.reshape(*frames.shape, -1))
    classes = np.maximum(bound.targets(jax.numpy.asarray(frames)), 0)
    return -np.take_along_axis(np.asarray(logits), classes[..., None], axis=-1).sum(axis=(0, 2, 3))


def test_what_renders_units_is_refused(model):
    check_modes("--mode", MODES_WITHOUT_UNITS, with_units=False)
    check_modes("--mode", ("tts",), with_units=True)
    for mode in ("semantic_to_acoustic", "speaker_transfer", "tts"):
        with pytest.raises(UserError, match=f"--mode={mode} renders units.*data.units=none"):
            check_modes("--mode", ("unconditional", mode), with_units=False)
    with pytest.raises(ValueError, match="without units"):
        model.builder.semantic_to_acoustic(np.zeros(4, np.int32), item=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["data.units=behind"], "data.units"),
        (["data.positions=running", "data.deduplicate=true"], "field deduplicate"),
        (["eval.task=held-out"], "eval.task"),
    ],
)
def test_what_does_not_go_with_it_is_refused(tmp_path, fields, message):
    config = make_config(tmp_path)
    with pytest.raises(ConfigError, match=message):
        config.override(["data.units=none", *fields])
