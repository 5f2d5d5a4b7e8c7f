"""Where a record's audio is: what is stored names it, whatever its path looks like."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.audio.io import AudioError
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
    | st.builds(lambda a, b: encode_member(row=a, column=b), counts, paths)
    | st.builds(lambda a: encode_member(channel=a), counts)
    | st.builds(lambda a, b, c: encode_member(start=a, end=b, channel=c), seconds, seconds, counts)
    | st.builds(
        lambda a, b, c, d, e: encode_member(offset=a, size=b, name=c, start=d, end=e),
        counts,
        counts,
        paths,
        seconds,
        seconds,
    )
    | st.builds(
        lambda a, b, c, d: encode_member(offset=a, size=b, name=c, channel=d),
        counts,
        counts,
        paths,
        counts,
    )
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
        "a.wav?channel=1&start=1.0&end=2.0",
        "a.parquet?row=1&column=audio&start=1.0&end=2.0",
        "a.wav?channel=left",
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


def test_one_channel_of_a_file_is_read(tmp_path):
    wav = np.random.default_rng(0).uniform(-0.5, 0.5, (RATE, 3)).astype(np.float32)
    path = str(tmp_path / "call.wav")
    soundfile.write(path, wav, RATE, subtype="FLOAT")
    for where, expected in (
        ({"channel": 2}, wav[:, 2]),
        ({"start": 0.25, "end": 0.5, "channel": 0}, wav[RATE // 4 : RATE // 2, 0]),
        ({"start": 0.25, "end": 0.5}, wav[RATE // 4 : RATE // 2].mean(axis=1)),
    ):
        found = read_audio(Utterance("x", path, "s", member=encode_member(**where)), RATE)
        np.testing.assert_array_equal(found, expected)
    data = Path(path).read_bytes()
    (tmp_path / "x.tar").write_bytes(b"before" + data)
    inside = {"offset": 6, "size": len(data), "name": "call.wav", "start": 0.5, "end": 0.75}
    member = encode_member(**inside, channel=1)
    found = read_audio(Utterance("x", str(tmp_path / "x.tar"), "s", member=member), RATE)
    np.testing.assert_array_equal(found, wav[RATE // 2 : 3 * RATE // 4, 1])
    with pytest.raises(AudioError, match="has 3 channels, none is number 3"):
        read_audio(Utterance("x", path, "s", member="channel=3"), RATE)
    Path(path).write_bytes(data[:-1000])
    with pytest.raises(AudioError, match="truncated"):
        read_audio(Utterance("x", path, "s", member="channel=1"), RATE)
    Path(path).write_bytes(data + data)
    with pytest.raises(AudioError, match="channel 1 cannot be read by itself"):
        read_audio(Utterance("x", path, "s", member="channel=1"), RATE)


def test_a_file_that_is_named_as_a_member_is_that_file(tmp_path):
    member = encode_member(offset=0, size=4, name="a.wav")
    soundfile.write(tmp_path / f"x?{member}", np.full(RATE, 0.5), RATE, format="WAV")
    found = stored_utterance(f"x?{member}", tmp_path)
    assert (found.path, found.member) == (str(Path(tmp_path, f"x?{member}")), "")
    assert stored_utterance(f"y?{member}", tmp_path).member == member
