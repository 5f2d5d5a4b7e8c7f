"""Scores of recordings: rows for all, failures by name, and what was scored is kept."""

import json
import math
import shutil

import numpy as np
import pytest
import soundfile

from data_pipeline.datasets.kinds import parse_spec
from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenization.shard import align
from data_pipeline.tokenizers import load_codec, load_semantic
from gpst_jax.evaluation.likelihood.files import read_list
from gpst_jax.evaluation.likelihood.recordings import RecordingEncoder
from gpst_jax.evaluation.likelihood.scorer import Scorer
from gpst_jax.evaluation.likelihood.scoring import Scoring, open_scoring

RATE = 16_000


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """A folder of good and bad recordings."""
    folder, random = tmp_path_factory.mktemp("recordings"), np.random.default_rng(0)
    for name, seconds in (("a", 0.7), ("b", 1.1), ("c", 1.3)):
        wav = 0.1 * random.standard_normal(round(seconds * RATE))
        soundfile.write(folder / f"{name}.wav", wav, RATE)
    shutil.copy(folder / "a.wav", folder / "same.wav")
    soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(folder / "long.wav", 0.1 * random.standard_normal(61 * RATE), RATE)
    (folder / "text.wav").write_text("no sound")
    return folder


@pytest.fixture
def score(loaded, scorings, recordings, tmp_path):
    """Function (names, run) -> rows of a fresh `Scoring` over one file of scores."""

    def run(names, model="gpst"):
        opened, scorer = loaded(model), scorings(model).scorer  # whose programs are compiled
        spec = parse_spec(opened.loaded.dataset, "the run")
        encoder = RecordingEncoder(opened.directory, spec, 60.0)
        scoring = Scoring(scorer, encoder, tmp_path / "scores.jsonl")
        return scoring.files([recordings / f"{name}.wav" for name in names])

    return run


def test_the_score_of_a_recording_is_that_of_its_tokens(stored, scorings, score, recordings):
    scoring = scorings("gpst")
    tokenizers = stored / "tokens" / "tokenizers"
    wav = soundfile.read(recordings / "b.wav", dtype="float32")[0]
    units = load_semantic(tokenizers / "semantic").encode(wav, RATE)
    codes = load_codec(tokenizers / "codec").encode(wav, RATE)
    part = align(scoring.scorer.layout, units, codes)
    (row,), (expected,) = score(["b"]), scoring.items([part])
    assert row.score == expected
    assert row.seconds == pytest.approx(1.1)


def test_a_line_holds_sums_means_and_bits(score):
    (row,) = score(["a"])
    line = json.loads(json.dumps(row.to_json(), allow_nan=False))
    streams = line["streams"]
    assert list(streams)[:2] == ["semantic", "acoustic_q0"]
    assert line["units"] == streams["semantic"]
    for name in ("tokens", "log_likelihood"):
        assert line[name] == pytest.approx(sum(one[name] for one in streams.values()))
    assert line["per_token"] == pytest.approx(line["log_likelihood"] / line["tokens"])
    assert line["bits_per_second"] == pytest.approx(-line["log_likelihood"] / math.log(2) / 0.7)
    assert line["seconds"] == pytest.approx(0.7)
    assert line["failure"] is None


def test_what_cannot_be_scored_is_a_row_that_says_why(score):
    names = ["a", "text", "missing", "silent", "long", "a"]
    rows = score(names)
    assert [row.path.stem for row in rows] == names
    assert rows[0] == rows[-1]
    assert rows[0].failure is None
    for row, reason in zip(
        rows[1:5],
        ("cannot be decoded", "no such file", "is silent", "61.0 s, 60 s are scored"),
        strict=True,
    ):
        assert reason in row.failure
        assert row.score is None
        assert set(row.to_json()) == {"path", "failure"}


def test_equal_recordings_have_equal_scores_under_any_name(score):
    one, other = score(["a"])[0], score(["c", "same"])[1]
    assert one.score == other.score
    assert one.sha256 == other.sha256


def test_what_was_scored_is_kept(score, monkeypatch, tmp_path):
    first = score(["a", "b", "text"])
    lines = (tmp_path / "scores.jsonl").read_text().splitlines()

    def refuse(self, items):
        assert not items
        return iter(())

    with monkeypatch.context() as patched:
        patched.setattr(Scorer, "score", refuse)
        assert score(["b", "a", "text"]) == [first[1], first[0], first[2]]
        with pytest.raises(AssertionError):
            score(["b", "c"])  # what is new is computed
        with pytest.raises(AssertionError):
            score(["a"], "lm")  # so is everything for another model
    # Killed in the middle of a line: the same scores, and the file is whole again.
    (tmp_path / "scores.jsonl").write_text("\n".join(lines)[:-30])
    assert score(["a", "b", "text"]) == first
    assert score(["a", "b", "text"]) == first


def test_the_language_model_reads_recordings_without_a_codec(score, scorings):
    (row,) = score(["b"], "lm")
    scorer = scorings("lm").scorer
    assert set(row.score.nats) == {"units", "text"}
    assert row.score.tokens["units"] == round(1.1 * scorer.spec.semantic.frame_rate)
    prefix = len(scorer._template.tokenizer.prefix)
    assert row.score.tokens["text"] == 2 + (prefix > 0)  # the end of speech, the end
    assert row.score.total("units").nats == row.score.nats["units"]


def test_other_tokenizers_and_families_are_refused(loaded, stored, recordings, tmp_path):
    model = loaded("gpst")
    other = shutil.copytree(stored / "tokens" / "tokenizers", tmp_path / "tokenizers")
    shutil.rmtree(other / "codec")
    scoring = open_scoring(model.loaded, tmp_path)
    with pytest.raises(UserError, match="codec"):
        scoring.files([recordings / "a.wav"])
    flow = loaded("flow")
    with pytest.raises(UserError, match="family 'flow' gives no likelihoods"):
        open_scoring(flow.loaded, flow.directory)


def test_lists_are_read_in_three_forms(tmp_path):
    wanted = [tmp_path / "x.wav", tmp_path / "sub" / "y.wav"]
    (tmp_path / "list.txt").write_text("x.wav\n\nsub/y.wav\n")
    (tmp_path / "list.csv").write_text("id,path\n1,x.wav\n2,sub/y.wav\n")
    (tmp_path / "list.jsonl").write_text('{"path": "x.wav"}\n{"id": "2", "audio": "sub/y.wav"}\n')
    for name in ("list.txt", "list.csv", "list.jsonl"):
        assert read_list(tmp_path / name) == wanted


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("empty.txt", "\n", "lists no recordings"),
        ("keys.jsonl", '{"wav": "x.wav"}', "line 1: no path under 'path' or 'audio'"),
        ("broken.jsonl", '{"path": "x.wav"}\n{', "line 2: not JSON"),
        ("list.jsonl", '["x.wav"]', "line 1: a JSON object is expected"),
        ("column.csv", "file\nx.wav\n", "line 2: no path"),
    ],
)
def test_a_bad_list_is_one_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_list(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read"):
        read_list(tmp_path / "absent.txt")
