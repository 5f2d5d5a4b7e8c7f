import numpy as np
import pytest

from data_pipeline.audio.io import load_audio
from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.metrics import pocketsphinx_digits, wer

BOOTSTRAP = {"resamples": 200, "seed": 0}


def test_counts_of_known_alignments():
    counts = wer.count_errors("one two three four", "one five three three four")
    assert (counts.substitutions, counts.deletions, counts.insertions) == (1, 0, 1)
    counts = wer.count_errors("one two three", "one three")
    assert (counts.words, counts.substitutions, counts.deletions, counts.insertions) == (3, 0, 1, 0)


def test_failed_or_empty_speech_deletes_every_word():
    failed, empty = wer.count_errors("one two", None), wer.count_errors("one two", "")
    assert failed.errors == empty.errors == 2
    assert failed.failed
    assert not empty.failed
    assert failed.empty
    assert empty.empty


def test_words_without_a_reference_are_insertions():
    assert wer.count_errors("", "one two").insertions == 2


def test_corpus_rate_is_not_the_mean_of_rates():
    counts = [wer.count_errors("one", "two"), wer.count_errors("one two three", "one two three")]
    row = wer.summarise(counts, ["a", "b"], **BOOTSTRAP)
    assert row["value"] == pytest.approx(1 / 4)
    assert row["mean"] == pytest.approx(1 / 2)
    assert row["share_above_half"] == 0.5
    assert (row["n"], row["words"], row["substitutions"], row["speakers"]) == (2, 4, 1, 2)


def test_no_errors_still_have_an_interval():
    counts = [wer.count_errors("one two", "one two")] * 10
    low, high = wer.summarise(counts, None, **BOOTSTRAP)["ci95"]
    assert low == 0
    assert 0.1 < high < 0.25  # Wilson's interval of 0 of 20 words


def test_silence_is_not_agreement():
    pairs = [("one two three", "one two three"), ("", ""), (None, None), ("", "one two three")]
    counts = wer.count_pair_errors(pairs)
    assert [c.errors for c in counts] == [0, 3, 3, 3]
    assert [c.failed for c in counts] == [False, False, True, False]
    assert wer.count_pair_errors([("", None)])[0].errors == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Seven, oh-NINE!", "seven zero nine"), ("42", "four two"), ("  zero  one ", "zero one")],
)
def test_digit_normalisation(text, expected):
    assert wer.normalise_digits(text) == expected


def test_words_outside_the_grammar_are_refused():
    with pytest.raises(UserError, match="hundred"):
        wer.normalise_digits("one hundred")


def test_librispeech_normalisation_keeps_apostrophes():
    assert wer.normalise_librispeech("Don\u2019t stop, now.") == "DON'T STOP NOW"


@pytest.fixture(scope="module")
def heard(spoken_digits):
    pytest.importorskip("pocketsphinx")
    transcribe = pocketsphinx_digits.load()
    wavs = [load_audio(path, 16000) for path, _, _ in spoken_digits]
    return transcribe, wavs, [transcribe(wav) for wav in wavs]


def test_digits_are_recognised(heard, spoken_digits):
    counts = [wer.count_errors(t, h) for (_, t, _), h in zip(spoken_digits, heard[2], strict=True)]
    assert wer.summarise(counts, None, **BOOTSTRAP)["value"] < 0.2
    shuffled = [wer.count_errors(spoken_digits[i - 1][1], h) for i, h in enumerate(heard[2])]
    assert wer.summarise(shuffled, None, **BOOTSTRAP)["value"] > 0.6


def test_transcripts_do_not_depend_on_what_came_before(heard):
    transcribe, wavs, first = heard
    loud_noise = np.random.default_rng(0).uniform(-0.9, 0.9, 48000).astype(np.float32)
    transcribe(loud_noise)
    assert [transcribe(wav) for wav in reversed(wavs)] == first[::-1]
