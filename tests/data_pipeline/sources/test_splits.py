"""No second of a recording is in two splits, and none is used twice without a word."""

import hashlib
import io
import itertools
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.sources import (
    FolderSource,
    KaldiSource,
    ManifestSource,
    TarSource,
    Utterance,
    assign_splits,
    read_audio,
)
from data_pipeline.sources.base import checked, encode_member
from data_pipeline.sources.overlaps import span

RATE = 16_000
CASES = Path(__file__).resolve().parents[4] / "shared" / "cases" / "tables"


def piece(name, start=None, end=None, speaker="ann", split="", path="/none/talk.wav"):
    member = "" if start is None else encode_member(start=float(start), end=float(end))
    return Utterance(name, path, speaker, split=split, member=member)


def split_of(utterances, **kwargs) -> dict[str, str]:
    return {u.id: u.split for u in assign_splits(utterances, **kwargs)}


def common_seconds(a: Utterance, b: Utterance) -> float:
    if a.path != b.path:
        return 0.0
    (a_start, a_end), (b_start, b_end) = span(a), span(b)
    return min(a_end, b_end) - max(a_start, b_start)


times = st.integers(0, 20).map(lambda number: number / 2)
pieces = st.lists(
    st.tuples(
        st.sampled_from(["/none/a.wav", "/none/b.wav", "/none/c.wav"]),
        st.one_of(st.none(), st.tuples(times, times.map(lambda length: length + 0.5))),
        st.sampled_from(["ann", "bob", "cy", "dee", "unknown"]),
        st.sampled_from(["", "", "", "train", "valid", "unseen"]),
    ),
    min_size=1,
    max_size=12,
)


@given(pieces, st.sampled_from([0.0, 0.1, 0.5]), st.integers(0, 3))
def test_no_second_is_in_two_splits_and_every_piece_is_used_or_named(rows, fraction, seed):
    given_ = []
    for number, (path, times_, speaker, split) in enumerate(rows):
        start, end = (None, None) if times_ is None else (times_[0], sum(times_))
        given_.append(piece(f"p{number}", start, end, speaker, split, path))
    utterances, failures = checked(given_, [])
    assert sorted([u.id for u in utterances] + [f.id for f in failures]) == sorted(
        u.id for u in given_
    )
    assigned = assign_splits(utterances, fraction, seed=seed)
    assert all(u.split for u in assigned)
    for before, after in zip(utterances, assigned, strict=True):
        assert before.split in ("", after.split)
    for a, b in itertools.combinations(assigned, 2):
        if common_seconds(a, b) > 0.05:
            assert a.split == b.split
            assert span(a) != span(b)
    # Nothing is refused without a recording that it repeats, or a split that it breaks.
    kept = {u.id: u for u in utterances}
    for failure in failures:
        assert any(repr(name) in failure.reason for name in kept)


@given(pieces, st.integers(0, 3))
def test_the_pieces_of_a_recording_stay_together(rows, seed):
    utterances = [
        piece(f"p{number}", 20 * number, 20 * number + 5, path=path)
        for number, (path, *_) in enumerate(rows)
    ]
    found: dict[str, set[str]] = {}
    for utterance in assign_splits(utterances, 0.5, seed=seed):
        found.setdefault(utterance.path, set()).add(utterance.split)
    assert all(len(splits) == 1 for splits in found.values())


def test_recordings_are_what_validation_counts():
    utterances = [
        piece(f"{r:02d}/{p}", 5 * p, 5 * p + 5, path=f"/none/{r}.wav")
        for r in range(20)
        for p in range(1 + r % 4)
    ]
    valid = {u.path for u in assign_splits(utterances, 0.1) if u.split == "valid"}
    assert len(valid) == 2


def test_pieces_follow_the_given_split_of_their_recording():
    utterances = [
        piece("a", 0, 3, split="valid"),
        piece("b", 3, 6),
        piece("c", 0, 3, split="train", path="/none/x.wav"),
        piece("d", 3, 6, split="valid", path="/none/x.wav"),
        piece("e", 5, 8, path="/none/x.wav"),
        piece("f", 9, 12, path="/none/x.wav"),
    ]
    found = split_of(utterances)
    assert found == {
        "a": "valid", "b": "valid", "c": "train", "d": "valid", "e": "valid", "f": "train",
    }  # fmt: skip


def test_speech_over_a_held_out_speaker_is_held_out_too():
    utterances = [
        piece("a", 0, 3, "ann"),
        piece("b", 2, 5, "bob"),
        piece("c", 5, 8, "bob"),
        piece("d", speaker="cy", path="/none/other.wav"),
    ]
    found = split_of(utterances, heldout_speakers=["ann"], valid_fraction=0.0)
    assert found == {"a": "unseen", "b": "unseen", "c": "train", "d": "train"}


def test_plain_files_keep_the_splits_of_earlier_versions():
    utterances = [
        Utterance(f"s{s}/{i}", f"/x/s{s}/{i}.wav", f"s{s}") for s in range(20) for i in range(1 + s)
    ]
    found = split_of(utterances, valid_fraction=0.1, seed=5)
    digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
    assert digest[:16] == "b49fc280e98952ac"


@pytest.fixture
def talk(tmp_path):
    """12 s, and its samples."""
    wav = np.linspace(-0.5, 0.5, 12 * RATE, dtype=np.float32)
    soundfile.write(tmp_path / "talk.wav", wav, RATE, subtype="PCM_16")
    return tmp_path / "talk.wav", wav


def nemo(table, rows):
    table.write_text("".join(json.dumps({"audio_filepath": "talk.wav", **r}) + "\n" for r in rows))
    return table


def test_an_offset_of_0_with_a_duration_is_a_piece(talk):
    path, wav = talk
    rows = [{"offset": 3.0 * n, "duration": 3.0, "text": f"part {n}"} for n in range(4)]
    segments = path.parent / "segments.csv"
    segments.write_text(
        "path,start,duration,text\n" + "".join(f"talk.wav,{3 * n},3,part {n}\n" for n in range(4))
    )
    excel = path.parent / "excel.csv"
    excel.write_text(
        "path;offset;duration;text\n"
        + "".join(f"talk.wav;{3 * n},0;3,00;part {n}\n" for n in range(4))
    )
    for table in (nemo(path.parent / "n.jsonl", rows), segments, excel):
        utterances, failures = ManifestSource(table).list()
        assert failures == []
        assert [u.text for u in utterances] == [f"part {n}" for n in range(4)]
        for number, utterance in enumerate(utterances):
            stretch = wav[3 * number * RATE : 3 * (number + 1) * RATE]
            np.testing.assert_allclose(read_audio(utterance, RATE), stretch, atol=1e-4)
        assert len(set(split_of(utterances, valid_fraction=0.5).values())) == 1


@pytest.mark.parametrize("duration", [12, 12.0, 12.04, 11.9999])
def test_a_piece_of_the_whole_duration_is_the_recording(talk, duration):
    path, wav = talk
    table = nemo(path.parent / "n.jsonl", [{"offset": 0, "duration": duration}])
    (utterance,), failures = ManifestSource(table).list()
    assert (utterance.id, failures) == ("talk", [])
    found = read_audio(utterance, RATE)
    assert abs(len(found) - len(wav)) <= 2


def test_kaldi_segments_from_0_are_pieces(talk, capsys):
    path, wav = talk
    root = path.parent
    (root / "wav.scp").write_text("talk\ttalk.wav\nagain\ttalk.wav\n")
    (root / "segments").write_text(
        "a talk 0 3\nb\ttalk\t3\t6\nc talk 5 8\nd again 0 3\ne talk 5 -1\nf talk 0 nan\n"
        "g talk 0 -1\n"
    )
    utterances, failures = KaldiSource(root).list()
    assert [u.id for u in utterances] == ["a", "b", "c", "g"]
    np.testing.assert_allclose(read_audio(utterances[0], RATE), wav[: 3 * RATE], atol=1e-4)
    assert "4 pieces overlap" in capsys.readouterr().err
    said = {failure.id: failure.reason for failure in failures}
    assert said.keys() == {"d", "e", "f"}
    assert "the same recording as 'a'" in said["d"]
    assert "from 5.0 to -1.0" in said["e"]


def test_given_splits_that_overlap_name_both_rows(talk):
    path, _ = talk
    table = path.parent / "t.csv"
    table.write_text(
        "id,path,start,end,split\na,talk.wav,0,4,train\nb,talk.wav,3,6,dev\nc,talk.wav,6,9,dev\n"
        "d,talk.wav,8,12,\n"
    )
    utterances, failures = ManifestSource(table).list()
    assert split_of(utterances) == {"a": "train", "c": "valid", "d": "valid"}
    assert failures[0].id == "b"
    for part in ("'a'", "'train'", "'valid'"):
        assert part in failures[0].reason


def test_one_file_by_two_ids_or_two_paths_is_used_once(talk):
    path, _ = talk
    root = path.parent
    os.link(path, root / "hard.wav")
    (root / "soft.wav").symlink_to(path)
    table = root / "t.csv"
    table.write_text(
        "id,path,split\na,talk.wav,train\nb,talk.wav,valid\nc,hard.wav,valid\nd,soft.wav,\n"
        "e,./x/../talk.wav,\n"
    )
    utterances, failures = ManifestSource(table).list()
    assert [u.id for u in utterances] == ["a"]
    assert [f.id for f in failures] == ["b", "c", "d", "e"]
    assert all("the same recording as 'a'" in failure.reason for failure in failures)
    pieces_ = root / "p.csv"
    pieces_.write_text("id,path,start,end,split\na,talk.wav,0,4,train\nb,soft.wav,3,6,valid\n")
    utterances, failures = ManifestSource(pieces_).list()
    assert [u.id for u in utterances] == ["a"]
    assert len(failures) == 1
    (root / "soft.wav").unlink()
    (root / "hard.wav").unlink()
    assert [u.id for u in FolderSource(root).list()[0]] == ["talk"]


def test_a_shard_by_two_names_is_used_once_and_its_texts_are_checked(tmp_path):
    audio = io.BytesIO()
    soundfile.write(audio, np.zeros(RATE), RATE, format="WAV")
    members = {
        "a.wav": audio.getvalue(), "a.json": b'{"Transcription": "one", "client_id": "ann"}',
        "b.wav": audio.getvalue(), "b.json": b'{"text": ["two"]}',
        "c.wav": audio.getvalue(), "c.txt": b"th\0ree",
        "d.wav": audio.getvalue(), "d.json": b'{"text": "\\ud800"}',
    }  # fmt: skip
    with tarfile.open(tmp_path / "s-0.tar", "w") as file:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    (tmp_path / "s-1.tar").symlink_to(tmp_path / "s-0.tar")
    utterances, failures = TarSource(tmp_path).list()
    assert [(u.id, u.speaker, u.text) for u in utterances] == [("s-0/a", "ann", "one")]
    said = {failure.id: failure.reason for failure in failures}
    assert "the same recording as 's-0/a'" in said["s-1/a"]
    assert "text is a list" in said["s-0/b"]
    assert "U+0000" in said["s-0/c"]
    assert "lone surrogate" in said["s-0/d"]


@pytest.mark.skipif(not CASES.is_dir(), reason="the reported inputs are not here")
def test_reported_tables():
    for name in ("space_header.csv", "quote.csv", "nemo.jsonl", "segments.csv"):
        utterances, failures = ManifestSource(CASES / name).list()
        assert len(utterances) + len(failures) == 4
        assert [f.id for f in failures] == ["line 3 of quote.csv"] * (name == "quote.csv")
        assert all(u.text and u.text.count(" ") <= 2 for u in utterances)
    utterances, failures = KaldiSource(CASES / "kaldi_tabs").list()
    assert [len(utterances), len(failures)] == [4, 0]
