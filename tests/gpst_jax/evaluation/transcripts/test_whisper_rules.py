"""What Whisper's transcripts are cut by: a stub stands for the recogniser."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpst_jax.evaluation.transcripts import whisper

RATE = whisper.SAMPLE_RATE
SPEECH = {"no_speech_prob": 0.05, "avg_logprob": -0.2, "compression_ratio": 1.2}


def segment(text, seek=0, **values):
    return SimpleNamespace(text=text, seek=seek, **(SPEECH | values))


class Stub:
    """Returns fixed segments and keeps the options of every call."""

    def __init__(self, *segments):
        self.segments, self.calls = segments, []

    def transcribe(self, wav, **options):
        self.calls.append((wav, options))
        return iter(self.segments), None


def heard(seconds, *segments, level=0.1, language="en"):
    stub = Stub(*segments)
    wav = np.full(round(seconds * RATE), level, np.float32)
    return whisper.transcriber(stub, language)(wav), stub


@pytest.mark.parametrize(("seconds", "level"), [(0.1, 0.1), (0, 0.1), (3, 0.0), (3, 0.9e-4)])
def test_what_is_too_short_or_silent_is_never_shown_to_the_recogniser(seconds, level):
    text, stub = heard(seconds, segment("Thank you."), level=level)
    assert text == ""
    assert not stub.calls


def test_one_loud_frame_is_no_silence():
    wav = np.zeros(RATE, np.float32)
    wav[5000:5320] = 1e-3
    assert not whisper.is_silent(wav)
    assert whisper.is_silent(wav[:4800])
    assert whisper.is_silent(np.zeros(0, np.float32))


def test_decoding_is_greedy_and_without_context():
    _, stub = heard(4, segment("hello"), language="de")
    options = stub.calls[0][1]
    assert (options["beam_size"], options["temperature"], options["language"]) == (1, 0.0, "de")
    assert not options["condition_on_previous_text"]
    assert not options["vad_filter"]
    assert not options["without_timestamps"]


def test_clipped_sound_is_scored_within_full_scale():
    text, stub = heard(1, segment(" hello "), level=30.0)
    assert text == "hello"
    assert stub.calls[0][0].max() == 1.0
    assert stub.calls[0][0].dtype == np.float32


@pytest.mark.parametrize(
    ("probability", "logprob", "kept"),
    [(0.9, -1.0, False), (0.9, -0.3, True), (0.5, -2.0, True), (0.71, -0.5, False)],
)
def test_uncertain_text_without_speech_is_dropped(probability, logprob, kept):
    invented = segment("you", no_speech_prob=probability, avg_logprob=logprob)
    assert heard(4, invented)[0] == ("you" if kept else "")


def test_only_the_window_without_speech_is_dropped():
    silent = segment("Thank you.", seek=3000, no_speech_prob=0.95, avg_logprob=-1.2)
    text, _ = heard(40, segment(" one"), segment(" two"), silent)
    assert text == "one two"


def test_more_letters_than_can_be_said_are_invented():
    assert heard(0.25, segment("Thank you very much."))[0] == ""
    assert heard(1.0, segment("Thank you very much."))[0] == "Thank you very much."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8, 0, 1, 2," + " 1, 2," * 60, "8, 0, 1, 2,"),
        ("4 8 9 2" + " 3 4 8 9 2" * 40, "4 8 9 2 3"),
        ("6882" + "8" * 400, "68828"),
        ("好的" * 50, "好的"),
        ("we go on and on and on and on", "we go on and"),
        ("nothing comes three times nothing", "nothing comes three times nothing"),
        ("", ""),
    ],
)
def test_runaways_end_with_their_first_repeated_phrase(text, expected):
    assert whisper.cut_runaway(text) == expected


@given(st.lists(st.sampled_from(["one", "two", "six"]), max_size=12), st.integers(3, 9))
def test_what_is_left_is_the_beginning_and_repeats_nothing(words, times):
    runaway = " ".join([*words, *["go on"] * times])
    kept = whisper.cut_runaway(runaway)
    assert runaway.startswith(kept)
    assert kept == whisper.cut_runaway(kept)
    assert len(kept.split()) <= len(words) + 2


def test_only_text_that_compresses_well_is_cut():
    assert heard(4, segment("no no no no"))[0] == "no no no no"
    assert heard(4, segment("no " * 40, compression_ratio=12.0))[0] == "no"
