"""What a recipe cannot score is named and counted, and never divided by."""

from pathlib import Path

import pytest

from gpst_jax.evaluation.metrics import wer
from gpst_jax.evaluation.metrics.base import Inputs, items_of
from gpst_jax.evaluation.metrics.recipe import Outcome
from gpst_jax.evaluation.report.tables import print_results
from gpst_jax.samples.manifest import Sample

HUBERT = "wer/hubert-large-ls960-ctc"
DIGITS = "wer/pocketsphinx-digits-smoke"


def sample(number: int, text: str, heard: str | None, kind: str = "free", **fields) -> Sample:
    """A sample whose file's name is what is recognised in it."""
    audio = Path(f"{number}", heard or "")
    return Sample(id=str(number), audio=audio, text=text, text_kind=kind, speaker="s", **fields)


def scores(samples: list[Sample], recipe: str = HUBERT, name: str = "recording"):
    def measure(measurement, paths):
        return {path: Outcome("" if path.name.isdigit() else path.name) for path in paths}

    inputs = Inputs({name: samples}, measure, 100, 0)
    return wer.WordErrors(wer=(recipe,)).score(inputs)


def row(*arguments, **options):
    return scores(*arguments, **options).rows["recording", options.get("recipe", HUBERT)]


GOOD = [sample(0, "hello there", "HELLO THERE"), sample(1, "one more word", "ONE WORD")]


def test_nothing_is_left_out_of_what_can_be_scored():
    found = row(GOOD)
    assert (found["value"], found["n"], found["words"]) == (pytest.approx(0.2), 2, 5)
    assert not {"n_empty", "n_other_language"} & set(found)
    assert items_of(found) == "2"


@pytest.mark.parametrize("text", ["...", " ", "\u2014 (!)"])
def test_a_reference_without_words_is_counted_apart(text):
    empty = sample(9, text, "SOME WORDS")
    found = scores([*GOOD, empty])
    expected = row(GOOD)
    got = found.rows["recording", HUBERT]
    assert got == expected | {"n_empty": 1}
    assert items_of(got) == "2, 1 no words"
    assert "9" not in found.values[HUBERT, "recording"]
    alone = row([empty])
    assert alone["value"] is None
    assert alone["reason"] == "not available: reference transcripts hold no words"
    assert alone["n_empty"] == 1


def test_counts_without_words_are_never_divided_by():
    counts = [wer.count_errors("", "A B"), wer.count_errors("ONE TWO", "ONE")]
    found = wer.summarise(counts, ["a", "b"], resamples=50, seed=0)
    assert (found["value"], found["n"], found["n_empty"], found["speakers"]) == (0.5, 1, 1, 1)
    none = wer.summarise(counts[:1], ["a"], resamples=50, seed=0)
    assert (none["value"], none["n_empty"]) == (None, 1)


@pytest.mark.parametrize(
    ("text", "language", "name"),
    [
        ("你好吗", "zh", "Chinese (zh)"),
        ("你好吗", None, "Chinese characters"),
        ("guten Tag", "de", "German (de)"),
    ],
)
def test_languages_that_the_recipe_is_not_for_are_refused_by_name(text, language, name):
    foreign = [sample(10 + n, text, "KNEE HOW MA", language=language) for n in range(3)]
    found = row(foreign)
    assert found["value"] is None
    assert found["reason"] == (
        f"not available: the transcripts are in {name}, {HUBERT} scores English"
    )
    assert found["n_other_language"] == 3
    mixed = row([*GOOD, *foreign])
    assert mixed == row(GOOD) | {"n_other_language": 3}
    assert items_of(mixed) == "2, 3 other language"


def test_numerals_and_words_are_the_same_word():
    digits = [sample(0, "7 3", "seven three", "digits"), sample(1, "zero", "zero", "digits")]
    assert row(digits, recipe=DIGITS)["value"] == 0
    assert row([sample(0, "Chapter 7", "CHAPTER SEVEN")])["value"] == 0
    german = [sample(0, "7 3", "seven three", "digits", language="de")]
    assert "German (de)" in row(german, recipe=DIGITS)["reason"]


def test_the_table_shows_what_is_counted_apart(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    got = row([*GOOD, sample(9, "...", "X"), sample(8, "你好", "X")])
    print_results(
        {
            "ceilings": {"recording": {HUBERT: got}},
            "modes": {},
            "floors": {},
            "differences": {},
            "recipes": {HUBERT: {}},
        }
    )
    assert "2, 1 no words, 1 other language" in capsys.readouterr().out
