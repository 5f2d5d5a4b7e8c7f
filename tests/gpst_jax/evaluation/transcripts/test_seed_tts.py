"""The conventions of seed-tts-eval, on cases worked by hand."""

from pathlib import Path

import numpy as np
import pytest

from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenizers import whisper_weights
from gpst_jax.evaluation.metrics import wer
from gpst_jax.evaluation.metrics.base import Inputs
from gpst_jax.evaluation.metrics.recipe import Outcome
from gpst_jax.evaluation.transcripts import paraformer, seed_tts
from gpst_jax.evaluation.transcripts.recipes import RECIPES
from gpst_jax.samples.manifest import Sample

ENGLISH, CHINESE = "wer/seed-tts-en", "cer/seed-tts-zh"


def scores(recipe, *pairs, failed=(), **fields):
    """Scores of samples whose file is called by what is recognised in it."""

    def measure(measurement, paths):
        return {
            path: Outcome(failure="no such file") if path.parts[0] in failed else Outcome(path.name)
            for path in paths
        }

    samples = [
        Sample(id=str(n), audio=Path(str(n), heard), text=text, speaker=f"s{n}", **fields)
        for n, (text, heard) in enumerate(pairs)
    ]
    return wer.WordErrors(wer=(recipe,)).score(Inputs({"tts": samples}, measure, 50, 0))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's a well-known, “quoted” fact.", "it's a wellknown quoted fact"),
        ("Chapter 12 -- the END…", "chapter 12 the end"),
        ("don\u2019t", "dont"),  # the curly apostrophe is punctuation to the published script
    ],
)
def test_english_texts_lose_punctuation_and_case_and_keep_numbers(text, expected):
    assert seed_tts.english(text) == expected


def test_numbers_are_not_normalised():
    row = scores(ENGLISH, ("I have two", "I have 2.")).rows["tts", ENGLISH]
    assert row["value"] == pytest.approx(1 / 3)


def test_the_mean_per_sentence_is_reported_with_the_corpus_rate_beside_it():
    found = scores(
        ENGLISH,
        ("one two three four", "one two three four"),
        ("five six", "five nine"),
        ("seven eight nine ten", "seven"),
        failed=("2",),
    )
    row = found.rows["tts", ENGLISH]
    # 0/4, 1/2 and 4/4 of a file that is missing, which the published script would leave out.
    assert row["value"] == row["mean"] == pytest.approx((0 + 0.5 + 1) / 3)
    assert row["corpus"] == pytest.approx((0 + 1 + 4) / 10)
    assert row["median"] == pytest.approx(0.5)
    assert (row["n"], row["failed"]) == (3, 1)
    assert row["mean_ci95"] == row["ci95"]
    kind = wer.WordErrors
    counts = found.values[ENGLISH, "tts"]
    assert kind.columns(ENGLISH, counts["1"]) == (0.5, 1.0)
    assert kind.columns("wer/whisper-base-english", counts["1"]) == (1.0, 2.0)
    better = {id_: wer.count_errors("a b", "a b") for id_ in counts}
    options = {"speakers": {}, "resamples": 50, "seed": 0}
    difference = kind.difference(ENGLISH, counts, better, **options)
    assert difference["value"] == pytest.approx(0.5)


def test_chinese_is_compared_by_characters():
    found = scores(CHINESE, ("今天\uff0c天气好。", "今天天气不好"), language="zh")
    row = found.rows["tts", CHINESE]
    assert row["value"] == pytest.approx(1 / 5)
    assert (row["insertions"], row["words"]) == (1, 5)
    english = scores(CHINESE, ("good day", "good day"), language="en").rows["tts", CHINESE]
    assert "English (en), cer/seed-tts-zh scores Chinese" in english["reason"]


def test_a_missing_paraformer_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv(paraformer.VARIABLE, str(tmp_path))
    with pytest.raises(UserError, match=r"GPST_PARAFORMER=.*name a directory with model\.onnx"):
        paraformer.files()
    (tmp_path / "model.int8.onnx").touch()
    (tmp_path / "tokens.txt").touch()
    assert paraformer.files()[0].name == "model.int8.onnx"


def test_the_recipes_say_what_they_are():
    described = RECIPES[ENGLISH].describe()
    assert "large-v3" in described["model"]
    assert "numbers as they are" in described["normalisation"]
    assert described["aggregation"].startswith("mean over sentences")
    assert RECIPES[CHINESE].describe()["unit"] == "characters"


def test_the_recogniser_hears_with_the_weights_that_are_here(spoken_digits):
    pytest.importorskip("faster_whisper")
    try:
        whisper_weights.find("tiny.en", download=False)
    except UserError:
        pytest.skip("no weights of Whisper tiny.en on this machine")
    from data_pipeline.audio.io import load_audio

    transcribe = seed_tts.load("tiny.en")
    wav = load_audio(spoken_digits[0][0], 16000)
    assert transcribe(wav) == transcribe(wav)
    assert any(map(str.isalnum, transcribe(wav)))
    assert isinstance(transcribe(np.zeros(16000, np.float32)), str)
