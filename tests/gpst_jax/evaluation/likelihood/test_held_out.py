"""Held-out likelihood and termination rate, against sums by hand."""

import json
import math

import jax
import numpy as np
import pytest

from data_pipeline.datasets.kinds import parse_spec
from data_pipeline.datasets.sequence_records import SequenceReader
from data_pipeline.datasets.token_records import RecordReader
from data_pipeline.runtime.errors import UserError
from data_pipeline.tokens import TokenLayout
from gpst_jax.evaluation.likelihood.estimates import Bootstrap, known_speakers, proportion
from gpst_jax.evaluation.likelihood.held_out import (
    Utterance,
    chosen,
    cut,
    held_out,
    of_sequences,
)
from gpst_jax.evaluation.likelihood.scores import Score
from gpst_jax.evaluation.likelihood.termination import read_endings, termination
from gpst_jax.objectives import make_objective


def test_rows_are_sums_over_utterances(stored, scorings):
    scoring = scorings("gpst")
    result = held_out(scoring, stored / "tokens", items=5, resamples=200)
    reader = RecordReader(stored / "tokens", "valid")
    records = [reader[place] for place in chosen(len(reader), 5, 0)]
    layout, seconds = scoring.scorer.layout, scoring.scorer.data.crop_seconds
    scores = [
        scoring.items(cut((r.units.astype(np.int32), r.codes.astype(np.int32)), layout, seconds))
        for r in records
    ]
    nats = math.fsum(score.total().nats for cuts in scores for score in cuts)
    duration = math.fsum(record.end - record.start for record in records)
    rows = result["estimates"]
    assert rows["bits_per_second"]["value"] == pytest.approx(nats / math.log(2) / duration)
    assert rows["bits_per_second"]["n"] == result["utterances"] == len(records)
    low, high = rows["bits_per_second"]["ci95"]
    assert low <= rows["bits_per_second"]["value"] <= high
    for stream in scoring.streams:
        total = math.fsum(score.nats[stream] for cuts in scores for score in cuts)
        tokens = sum(score.tokens[stream] for cuts in scores for score in cuts)
        assert rows[f"nll_{stream}"]["value"] == pytest.approx(total / tokens)
    parts = [rows[f"bits_per_second_{name}"]["value"] for name in ("semantic", "acoustic")]
    assert sum(parts) == pytest.approx(rows["bits_per_second"]["value"])
    assert result["speakers"] == len({record.speaker for record in records})
    assert result["pieces"] == sum(map(len, scores))
    assert not result["failed"]
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_training_logs_the_same_bits_per_second(stored, loaded, scorings):
    scoring, model = scorings("gpst"), loaded("gpst").loaded
    row = held_out(scoring, stored / "tokens", items=1, resamples=20)["estimates"]
    reader, scorer = RecordReader(stored / "tokens", "valid"), scoring.scorer
    records = [reader[place] for place in chosen(len(reader), 1, 0)]
    items = [
        piece
        for r in records
        for piece in cut(
            (r.units.astype(np.int32), r.codes.astype(np.int32)),
            scorer.layout,
            scorer.data.crop_seconds,
        )
    ]
    shape = tuple(np.max([scorer.shape(item) for item in items], axis=0).tolist())
    rows = [scorer.row(item, shape) for item in items]
    batch = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    objective = make_objective(
        model.config, parse_spec(model.dataset, "the run"), stored / "tokens"
    )
    run = jax.jit(lambda p, b, w: objective.loss(p, b, jax.random.key(0), w, False)[1])
    bits, seconds = run(model.params, batch, objective.weights(batch))["bits_per_second"]
    duration = sum(record.end - record.start for record in records)
    # The loss counts whole frames, evaluation the seconds of the recordings.
    assert float(seconds) == pytest.approx(duration, abs=len(records) / scorer.layout.frame_rate)
    assert float(bits) / duration == pytest.approx(row["bits_per_second"]["value"], rel=1e-5)


def test_some_utterances_are_chosen_by_the_seed(stored, scorings):
    one, same, other = (
        held_out(scorings("gpst"), stored / "tokens", items=2, seed=seed, resamples=50)
        for seed in (0, 0, 1)
    )
    assert one == same
    assert one["utterances"] == 2
    assert one["estimates"] != other["estimates"]
    assert len({tuple(chosen(100, 5, seed)) for seed in range(20)}) == 20
    assert chosen(3, None, 0) == chosen(3, 9, 0) == [0, 1, 2]


def test_sequences_are_scored_by_task(stored, scorings):
    scoring = scorings("lm")
    result = held_out(scoring, stored / "sequences", items=6, resamples=50)
    reader = SequenceReader(stored / "sequences", "valid")
    records = [reader[place] for place in chosen(len(reader), 6, 0)]
    scores = scoring.items([(record.ids, record.loss_mask) for record in records])
    for name in ("units", "text"):
        nats = math.fsum(score.nats[name] for score in scores)
        tokens = sum(score.tokens[name] for score in scores)
        assert result["estimates"][f"nll_{name}"]["value"] == pytest.approx(nats / tokens)
    assert set(result["tasks"]) == {record.task for record in records}
    # The stored sequences have none of nothing but speech.
    assert "no sequences of the task pretrain" in result["estimates"]["bits_per_second"]["reason"]
    assert result["speakers"] is None


def test_bits_of_sequences_are_those_of_speech_alone():
    scores = [Score({"units": 10.0, "text": 2.0}, {"units": 25, "text": 2})] * 2
    found = [
        Utterance("a", "", 0.5, scores[0], "pretrain"),
        Utterance("b", "", 0.5, scores[1], "tts"),
    ]
    result = of_sequences(found, Bootstrap(50))
    row = result["estimates"]["bits_per_second"]
    assert (row["value"], row["n"]) == (pytest.approx(12 / math.log(2) / 0.5), 1)
    assert result["estimates"]["nll_units"]["value"] == pytest.approx(0.4)
    assert set(result["tasks"]) == {"pretrain", "tts"}


def test_other_datasets_are_refused(stored, scorings):
    with pytest.raises(UserError, match="its tokens are not those"):
        held_out(scorings("gpst"), stored / "sequences")
    with pytest.raises(UserError, match="sequences of its own vocabulary"):
        held_out(scorings("lm"), stored / "tokens")
    with pytest.raises(UserError, match="no split 'test'"):
        held_out(scorings("gpst"), stored / "tokens", "test")


@pytest.mark.parametrize("rates", [(50, 50), (50, 75), (25, 12.5)])
def test_pieces_join_to_the_whole_and_are_short_enough(rates):
    layout = TokenLayout(7, 2, 9, *rates)
    random = np.random.default_rng(0)
    for count in (1, 2, 49, 50, 51, 333):
        frames = layout.frames_for_units(count)
        part = random.integers(7, size=count), random.integers(9, size=(2, frames))
        pieces = cut(part, layout, 2.0)
        np.testing.assert_array_equal(np.concatenate([units for units, _ in pieces]), part[0])
        np.testing.assert_array_equal(np.concatenate([codes for _, codes in pieces], 1), part[1])
        assert max(len(units) for units, _ in pieces) <= 2.0 * rates[0]
        assert len(pieces) == math.ceil(count / (2.0 * rates[0]))
        sizes = [len(units) for units, _ in pieces]
        assert max(sizes) - min(sizes) <= 2 * layout.units_per_step


def _manifest(folder, rows):
    folder.mkdir(parents=True)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_termination_rate_counts_ends_and_nothing_else(tmp_path):
    ended = [{"id": str(i), "ended_by": "end"} for i in range(9)]
    _manifest(tmp_path / "unconditional", [*ended, {"id": "9", "ended_by": "guard:repetition"}])
    _manifest(tmp_path / "continuation", [{"id": "0", "ended_by": "length"}, {"id": "1"}])
    _manifest(tmp_path / "tts", [{"id": "0"}])
    _manifest(tmp_path / "recording_unseen", [{"id": "0"}])
    rows = termination(read_endings(tmp_path))
    assert rows["unconditional"]["value"] == 0.9
    assert rows["unconditional"]["n"] == 10
    assert rows["unconditional"]["endings"] == {"end": 9, "guard:repetition": 1}
    assert rows["continuation"]["value"] == 0.0
    assert rows["continuation"]["endings"] == {"length": 1, "unknown": 1}
    assert rows["tts"]["value"] is None
    assert "generate them again" in rows["tts"]["reason"]
    assert "recording_unseen" not in rows


def test_speech_made_from_files_is_counted_by_mode(tmp_path):
    lines = [{"id": str(i), "mode": "tts", "ended_by": "end"} for i in range(4)]
    lines.append({"id": "4", "mode": "unconditional", "ended_by": "nothing was said"})
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = termination(read_endings(tmp_path))
    assert {name: row["value"] for name, row in rows.items()} == {"tts": 1.0, "unconditional": 0.0}
    assert rows["tts"]["ci95"][0] < 0.7  # Wilson's: four samples are few
    with pytest.raises(UserError, match="run generate first"):
        read_endings(tmp_path / "nothing")


def test_intervals_of_proportions_stay_in_range_and_know_clusters():
    bootstrap = Bootstrap(resamples=500)
    assert proportion([1.0] * 20, None, bootstrap)["ci95"][0] == pytest.approx(0.8389, abs=1e-4)
    speakers = [f"s{i % 5}" for i in range(20)]
    clustered = proportion([1.0] * 20, speakers, bootstrap)
    assert clustered["ci95"][0] < 0.8
    assert clustered["n"] == 20
    assert proportion([0.5] * 20, None, bootstrap)["ci95"] == [0.5, 0.5]
    low, high = proportion([0.5, 0.0, 1.0, 1.0], None, bootstrap)["ci95"]  # Student's t goes beyond
    assert low >= 0.0
    assert high == 1.0
    ordered = sorted(speakers)
    values = [float(speaker in ("s0", "s1")) for speaker in ordered]
    wide, narrow = (proportion(values, by, bootstrap)["ci95"] for by in (ordered, None))
    assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])
    assert proportion([], None, bootstrap)["value"] is None


def test_a_dataset_of_unknown_speakers_says_so():
    assert known_speakers(["a", "unknown", "", "b", "a"]) == 2
    assert known_speakers(["unknown", ""]) is None
