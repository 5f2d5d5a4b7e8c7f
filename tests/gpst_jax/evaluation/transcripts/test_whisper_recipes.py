"""Whisper's recipes: what they score, in which language, by which words. A stub recognises."""

from pathlib import Path

import pytest

from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenizers import whisper_weights
from gpst_jax.evaluation.metrics import wer
from gpst_jax.evaluation.metrics.base import Inputs
from gpst_jax.evaluation.metrics.recipe import Outcome
from gpst_jax.evaluation.transcripts import normalisers, whisper_recipes
from gpst_jax.evaluation.transcripts.recipes import DIGITS_RECIPE, RECIPES, default_recipes
from gpst_jax.samples.manifest import Sample

ENGLISH = "wer/whisper-base-english"
BASIC = "wer/whisper-base-basic"
CHARACTERS = "cer/whisper-base-basic"
SELF = "wer/whisper-base-english-self"


@pytest.fixture(autouse=True)
def packages():
    pytest.importorskip("whisper_normalizer")
    pytest.importorskip("jiwer")


def sample(name, text, heard, kind="free", **fields):
    audio = Path(name, heard or "")
    return Sample(id=name, audio=audio, text=text, text_kind=kind, speaker="s", **fields)


def scores(conditions, *recipes, **settings):
    measured = []

    def measure(measurement, paths):
        measured.append((measurement.id, sorted(p.parts[0] for p in set(paths))))
        return {path: Outcome("" if len(path.parts) == 1 else path.name) for path in paths}

    metric = wer.WordErrors(wer=recipes, **settings)
    return metric.score(Inputs(conditions, measure, 50, 0)), measured


def row(samples, recipe=ENGLISH, name="codec"):
    return scores({name: samples}, recipe)[0].rows[name, recipe]


def test_ids_name_model_and_normaliser():
    ids = [id_ for id_ in RECIPES if "whisper" in id_]
    assert {ENGLISH, BASIC, CHARACTERS, SELF, "wer/whisper-tiny.en-english"} <= set(ids)
    assert not any(".en-basic" in id_ for id_ in ids)
    assert len(ids) == 24
    for id_ in ids:
        described = RECIPES[id_].describe()
        assert "int8" in described["model"]
        assert "digit by digit" in described["normalisation"]
        assert described["unit"] == ("characters" if id_.startswith("cer/") else "words")


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ("three four", "34"),
        ("three four", "3, 4."),
        ("3 4", "Three. Four!"),
        ("oh nine", "09"),
        ("1 2 3 0", "1,230"),
        ("seven nine two two seven", "792-27"),
    ],
)
def test_digit_strings_are_compared_digit_by_digit(text, heard):
    assert row([sample("0", text, heard, "digits")])["value"] == 0


def test_words_beside_digits_are_errors_not_refusals():
    found = row([sample("0", "one one seven", "One, one, pivot.", "digits")])
    assert (found["words"], found["substitutions"]) == (3, 1)
    assert row([sample("0", "three four", "thirty four", "digits")])["substitutions"] == 1


def test_sentences_are_compared_by_whispers_normaliser():
    free = sample("0", "Mister Smith won't pay twenty three dollars for the colour",
                  "Mr. Smith will not pay $23 for the color.")  # fmt: skip
    assert row([free])["value"] == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He's got 2 colours -- grey & blue!", "he has got 2 colors gray blue"),
        ("[noise] uh, hello (laughs)", "hello"),
        ("twenty-one thousand and five", "21005"),
        ("Dr. Jones, isn't it?", "doctor jones is not it"),
    ],
)
def test_the_english_normaliser_on_cases_worked_by_hand(text, expected):
    assert normalisers.english(text) == expected


def test_the_basic_normaliser_on_cases_worked_by_hand():
    assert normalisers.basic(" Grüße, Jürgen! [lacht] ") == "grüße jürgen"
    assert normalisers.basic("двадцать-пять") == "двадцать пять"
    assert normalisers.characters("今天 好。") == "今 天 好"


def test_languages_are_scored_by_words_or_characters_or_refused_by_name():
    german = [sample("0", "guten Tag", "Guten Tag!", language="de-AT")]
    chinese = [sample("1", "今天好", "今天不好", language="zh")]
    klingon = [sample("2", "nuqneH", "nuqneH", language="tlh")]
    assert row(german, BASIC)["value"] == 0
    assert row(chinese, CHARACTERS)["value"] == pytest.approx(1 / 3)
    assert "German (de)" in row(german)["reason"]
    assert "Chinese (zh)" in row(chinese, BASIC)["reason"]
    assert "German (de)" in row(german, CHARACTERS)["reason"]
    for recipe in (ENGLISH, BASIC, CHARACTERS):
        assert "'tlh'" in row(klingon, recipe)["reason"]


def test_the_script_tells_where_the_language_is_not_known():
    unknown = sample("0", "今天好", "今天好")
    assert row([unknown], CHARACTERS)["value"] == 0
    assert "Chinese characters" in row([unknown], BASIC)["reason"]
    assert row([sample("1", "hello", "hello")], BASIC)["value"] == 0
    assert "spaces between words" in row([sample("1", "hello", "hello")], CHARACTERS)["reason"]


def test_the_recogniser_is_given_the_language_of_the_sample():
    samples = [
        sample("0", "hello", "hello"),
        sample("1", "guten Tag", "guten Tag", language="de"),
        sample("2", "hello", "hello", language="en-US"),
    ]
    assert scores({"codec": samples}, BASIC)[1] == [
        ("transcript/whisper-base/detected", ["0"]),
        ("transcript/whisper-base/de", ["1"]),
        ("transcript/whisper-base/en", ["2"]),
    ]
    assert [id_ for id_, _ in scores({"codec": samples}, ENGLISH)[1]] == [
        "transcript/whisper-base/en"
    ]


def test_speech_without_transcripts_is_scored_against_its_recording():
    recording = Path("0", "the quick fox")
    rendered = [sample("1", None, "the brown fox", source_audio=recording)]
    itself = [sample("0", None, "the quick fox", source_audio=recording)]
    found, _ = scores({"codec": rendered, "recording": itself}, SELF)
    codec, ceiling = found.rows["codec", SELF], found.rows["recording", SELF]
    assert codec["value"] == pytest.approx(1 / 3)
    assert codec["reference"] == "what the recogniser hears in the recording"
    assert ceiling["value"] == 0
    assert "so that there are no errors" in ceiling["reference"]
    silent = row([sample("2", None, "you", source_audio=Path("2"))], SELF)
    assert (silent["value"], silent["n_empty"]) == (None, 1)
    assert "render a recording" in row([sample("3", "a text", "a text")], SELF)["reason"]


def test_recipes_after_the_first_have_rows_and_items_of_their_own():
    digits = [sample(str(n), "one two", "one two", "digits") for n in range(6)]
    sentences = [sample("s", "hello there", "hello")]
    sentences += [sample(f"s{n}", "hello there", "hello") for n in range(5)]
    found, measured = scores(
        {"codec": digits, "codec_sentences": sentences}, DIGITS_RECIPE, ENGLISH, wer_items=4
    )
    keys = list(found.rows)
    assert keys.index(("codec", DIGITS_RECIPE)) < keys.index(("codec", ENGLISH))
    assert found.rows["codec", DIGITS_RECIPE]["n"] == 6
    assert found.rows["codec", ENGLISH]["n"] == 4
    assert found.rows["codec_sentences", DIGITS_RECIPE]["value"] is None
    assert found.rows["codec_sentences", ENGLISH]["value"] == 0.5
    assert found.rows["codec_sentences", ENGLISH]["n"] == 6  # the first recipe scores none
    assert found.items["codec_sentences", "s"]["further"][ENGLISH]["transcript"] == "hello"
    assert "transcript" not in found.items["codec_sentences", "s"]
    assert len(measured[1][1]) == 10
    assert ENGLISH in wer.WordErrors.item_note(found.items["codec_sentences", "s"])


def test_the_same_pairs_are_kept_whole():
    pairs = [
        sample(f"{n}{half}", None, "one two", "digits", pair=str(n))
        for n in range(5)
        for half in "ab"
    ]
    found, _ = scores({"unconditional": pairs}, DIGITS_RECIPE, ENGLISH, wer_items=2)
    assert found.rows["unconditional", ENGLISH]["n"] == 2


def test_the_default_says_what_was_left_out(monkeypatch, tmp_path):
    def nowhere(name, **options):
        assert options == {"download": False}
        raise UserError("none")

    monkeypatch.setattr(whisper_weights, "find", nowhere)
    chosen, (line,) = default_recipes()
    assert chosen == (DIGITS_RECIPE,)
    assert "\n" not in line
    assert "GPST_WHISPER" in line
    monkeypatch.setattr(whisper_recipes, "MODULES", (("no_such_module", "no-such-package"),))
    assert "pip install 'gpst_jax[eval,whisper]'" in default_recipes()[1][0]

    def tiny_only(name, **_):
        if name != "tiny.en":
            raise UserError("none")
        return tmp_path

    monkeypatch.setattr(whisper_recipes, "MODULES", ())
    monkeypatch.setattr(whisper_weights, "find", tiny_only)
    assert default_recipes() == ((DIGITS_RECIPE, "wer/whisper-tiny.en-english"), ())
