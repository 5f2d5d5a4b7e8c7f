"""Where a record's audio is: what is stored names it, whatever its path looks like."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.sources import Utterance, read_audio
from data_pipeline.sources.base import encode_member
from data_pipeline.sources.reading import split_source, stored_source, stored_utterance

RATE = 16_000
seconds = st.floats(0, 1e5, allow_nan=False)
counts = st.integers(0, 2**40)
# Question marks, ampersands and equals signs in names, too.
names = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1)
tricky = st.lists(st.sampled_from(("a", "?", "&", "=", "start", "1.5", "%3F", " ")), min_size=1)
paths = names | tricky.map("".join)
members = (
    st.builds(lambda a, b: encode_member(start=a, end=b), seconds, seconds)
    | st.builds(lambda a, b, c: encode_member(offset=a, size=b, name=c), counts, counts, paths)
    | st.builds(lambda a, b, c: encode_member(row=a, feature=b, rate=c), counts, paths, counts)
)


@given(paths, members)
def test_a_path_and_its_member_are_found_again(path, member):
    assert split_source(f"{path}?{member}") == (path, member)


@given(paths)
def test_a_file_of_any_name_is_a_whole_file(path):
    for name in (f"{path}?start=1.0&end=2.0.wav", f"{path}?offset=1&size=2.wav"):
        assert split_source(name) == (name, "")


@pytest.mark.parametrize(
    "source",
    [
        "a.wav",
        "what?.wav",
        "a.wav?",
        "?start=1.0&end=2.0",
        "a.wav?start=1.0",
        "a.wav?end=2.0&start=1.0",
        "a.wav?start=1.0&end=two",
        "a.wav?start=1.0&end=2.0&end=3.0",
        "a.tar?offset=1&size=1.5&name=b",
        "a.tar?offset=1&size=2&name=b c.wav",  # as no member is written
    ],
)
def test_what_no_source_writes_is_a_path(source):
    assert split_source(source) == (source, "")


def test_segments_and_files_with_odd_names_are_read(tmp_path):
    wav = np.sin(np.arange(RATE) * 0.05).astype(np.float32) * 0.5
    name = "why? a=b&c?start=0.0&end=1.0.wav"
    soundfile.write(tmp_path / name, wav, RATE)
    whole = Utterance("x", str(tmp_path / name), "s")
    part = Utterance("x", str(tmp_path / name), "s", member=encode_member(start=0.25, end=0.5))
    for utterance, expected in ((whole, wav), (part, wav[RATE // 4 : RATE // 2])):
        stored = stored_source(utterance, tmp_path)
        found = read_audio(stored_utterance(stored, tmp_path), RATE)
        np.testing.assert_allclose(found, expected, atol=1e-3)
    assert stored_source(part, tmp_path / "elsewhere").startswith(f"..{os.sep}")


def test_a_file_that_is_named_as_a_member_is_that_file(tmp_path):
    member = encode_member(offset=0, size=4, name="a.wav")
    soundfile.write(tmp_path / f"x?{member}", np.full(RATE, 0.5), RATE, format="WAV")
    found = stored_utterance(f"x?{member}", tmp_path)
    assert (found.path, found.member) == (str(Path(tmp_path, f"x?{member}")), "")
    assert stored_utterance(f"y?{member}", tmp_path).member == member
