"""Dialogues: right answers as heard and as written, and word errors of the chain."""

from pathlib import Path

import pytest

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.metrics import dialogue
from gpst_jax.samples.manifest import Sample

SETTINGS = {"resamples": 100, "seed": 0}


def _sample(number: int, **fields) -> Sample:
    values = {
        "question": "count up from two",
        "text": "three four five",
        "question_transcript": "count up from two",
        "answer_text": "three four five",
    }
    return Sample(id=str(number), audio=Path("a.wav"), speaker="a", **values | fields)


def test_right_answers_as_heard_and_as_written():
    samples = [
        _sample(0),
        _sample(1, answer_text="three four six"),
        _sample(2, question_transcript="count up from ten"),
        _sample(3, answer_text=None, question_transcript=None),
    ]
    heard = ["three four five", "three four six", "three four", None]
    row = dialogue.answers(samples, heard, "same-words", **SETTINGS)
    assert (row["value"], row["n"]) == (0.25, 4)
    assert row["written"]["value"] == 0.5
    # One word of sixteen was misunderstood, and one question not at all.
    assert row["question_transcript"]["value"] == pytest.approx((1 + 4) / 16)
    # Of what was written (nine words) one word was not spoken.
    assert row["speech_from_text"]["value"] == pytest.approx(1 / 9)
    assert row["ci95"][0] < 0.25 < row["ci95"][1]


def test_a_judge_with_fractional_scores_gets_a_bootstrap_interval(monkeypatch):
    monkeypatch.setitem(
        dialogue.JUDGES, "half", lambda question, expected, heard: 0.5 if heard else 0.0
    )
    row = dialogue.answers(
        [_sample(number) for number in range(8)], ["x", None] * 4, "half", **SETTINGS
    )
    assert row["value"] == pytest.approx(0.25)
    assert row["ci95"][0] < 0.25 < row["ci95"][1]


def test_no_transcripts_are_a_row_with_a_reason():
    row = dialogue.answers([], [], "same-words", **SETTINGS)
    assert row["value"] is None
    table = dialogue.Answers.side_table([("dialogue", row)])
    assert [cell.text for cell in table.rows[0][1]] == ["not available: no transcripts"]
    assert "no transcripts" in dialogue.Answers.side_lines([("dialogue", row)])[0]


def test_an_unknown_judge_is_refused():
    with pytest.raises(UserError, match="same-words"):
        dialogue.get_judge("oracle")


@pytest.mark.parametrize(
    ("heard", "score"), [("one two", 1.0), ("two one", 0.0), ("", 0.0), (None, 0.0)]
)
def test_the_offline_judge_asks_for_the_same_words(heard, score):
    assert dialogue.same_words("?", "one two", heard) == score
