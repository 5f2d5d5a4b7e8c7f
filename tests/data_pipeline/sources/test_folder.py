"""Folder sources drop nothing silently; splits depend on names and seed only."""

import os
import random

import pytest

from data_pipeline.runtime.errors import UserError
from data_pipeline.sources import FolderSource, Utterance, assign_splits


def make_tree(root, *names: str):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"not read here")
    return root


def write_csv(path, *lines: str):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_lists_all_audio_sorted_with_ids_relative_to_the_root(tmp_path):
    make_tree(tmp_path, "b/x.FLAC", "a/y.wav", "a/z.mp3", "top.ogg", "notes.txt", ".hidden/q.wav")
    utterances, failures = FolderSource(tmp_path).list()
    assert [u.id for u in utterances] == ["a/y", "a/z", "b/x", "top"]
    assert [u.speaker for u in utterances] == ["a", "a", "b", "unknown"]
    assert all(os.path.isabs(u.path) and os.path.exists(u.path) for u in utterances)
    assert failures == []


def test_speaker_of_librispeech_names_of_one_folder_and_of_a_pattern(tmp_path):
    make_tree(tmp_path / "libri", "x/103-1240-0000.flac", "x/1034-12-0001.flac")
    assert [u.speaker for u in FolderSource(tmp_path / "libri").list()[0]] == ["103", "1034"]
    make_tree(tmp_path / "flat", "rec/0_george_10.wav", "rec/0_theo_1.wav", "rec/odd.wav")
    flat = FolderSource(tmp_path / "flat")
    assert {u.speaker for u in flat.list()[0]} == {"unknown"}
    named = FolderSource(tmp_path / "flat", speaker_pattern=r"\d_([a-z]+)_").list()[0]
    assert [u.speaker for u in named] == ["george", "theo", "unknown"]


@pytest.mark.parametrize("pattern", ["(", "no group", "(two)(groups)"])
def test_unusable_speaker_patterns_are_user_errors(tmp_path, pattern):
    make_tree(tmp_path, "a.wav")
    with pytest.raises(UserError, match="speaker_pattern"):
        FolderSource(tmp_path, speaker_pattern=pattern).list()


def test_directory_without_audio_or_none_at_all_is_a_user_error(tmp_path):
    make_tree(tmp_path, "readme.txt")
    with pytest.raises(UserError, match="no recordings"):
        FolderSource(tmp_path).list()
    with pytest.raises(UserError, match="not a directory"):
        FolderSource(tmp_path / "nothing").list()


def test_table_gives_speaker_text_language_and_split(tmp_path):
    make_tree(tmp_path / "audio", "a.wav", "b.wav")
    table = write_csv(
        tmp_path / "t.csv",
        "path,speaker,text,language,split,extra",
        'audio/a.wav,ann,"one, two",en,valid,x',  # relative to the table
        "b.wav,,three,,,y",  # relative to audio_dir
    )
    utterances, failures = FolderSource(tmp_path / "audio", table, language="de").list()
    assert failures == []
    assert [(u.id, u.speaker, u.text, u.language, u.split) for u in utterances] == [
        ("a", "ann", "one, two", "en", "valid"),
        ("b", "unknown", "three", "de", ""),
    ]


def test_everything_unusable_in_a_table_is_listed_once_and_the_rest_is_used(tmp_path):
    make_tree(tmp_path, "good.wav", "norow.wav", "notext.wav", "badsplit.wav", "commas.wav")
    table = write_csv(
        tmp_path / "t.csv",
        "path,text,split",
        "good.wav,one,",
        "gone.wav,two,",
        "notext.wav,,",
        "badsplit.wav,three,test",
        "commas.wav,four, five, six, seven",
        ",eight,",
        "t.csv,nine,",
    )
    utterances, failures = FolderSource(tmp_path, table).list()
    assert [u.id for u in utterances] == ["good"]
    reasons = {failure.id: failure.reason for failure in failures}
    assert len(reasons) == len(failures) == 7
    assert "no row in transcripts file t.csv" in reasons["norow"]
    assert "does not exist" in reasons["gone"]
    assert "missing transcript" in reasons["notext"]
    assert "line 4" in reasons["notext"]
    assert "'test'" in reasons["badsplit"]
    assert "cells" in reasons["commas"]
    assert "empty path" in reasons["line 7 of t.csv"]
    assert all(failure.stage == "list" for failure in failures)


def test_without_a_text_column_rows_need_no_text(tmp_path):
    make_tree(tmp_path, "a.wav")
    table = write_csv(tmp_path / "t.csv", "path,speaker", "a.wav,ann")
    utterances, failures = FolderSource(tmp_path, table).list()
    assert (utterances[0].text, utterances[0].speaker, failures) == (None, "ann", [])


def test_duplicate_ids_keep_the_first_and_list_the_others(tmp_path):
    make_tree(tmp_path, "a.wav", "a.flac", "b.wav")
    utterances, failures = FolderSource(tmp_path).list()
    assert [os.path.basename(u.path) for u in utterances] == ["a.flac", "b.wav"]
    assert [(f.id, os.path.basename(f.path)) for f in failures] == [("a", "a.wav")]
    assert "duplicate id" in failures[0].reason

    table = write_csv(tmp_path / "t.csv", "path,text", "b.wav,one", "b.wav,two")
    utterances, failures = FolderSource(tmp_path, table).list()
    assert [u.text for u in utterances] == ["one"]
    assert sorted(f.id for f in failures) == ["a", "a", "b"]


@pytest.mark.parametrize("content", [b"file,text\na.wav,x\n", b"", b"path,text\n\xff\xfe,x\n"])
def test_tables_that_cannot_be_read_are_user_errors(tmp_path, content):
    make_tree(tmp_path, "a.wav")
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"t\.csv"):
        FolderSource(tmp_path, tmp_path / "t.csv").list()
    with pytest.raises(UserError, match=r"other\.csv"):
        FolderSource(tmp_path, tmp_path / "other.csv").list()


def corpus(speakers: int, each: int) -> list[Utterance]:
    return [
        Utterance(f"s{s}/{i}", f"/x/s{s}/{i}.wav", f"s{s}")
        for s in range(speakers)
        for i in range(each)
    ]


def splits(utterances, **kwargs) -> dict[str, str]:
    return {u.id: u.split for u in assign_splits(utterances, **kwargs)}


def test_speakers_are_held_out_entirely_and_every_other_speaker_is_in_validation():
    found = assign_splits(corpus(20, 10), valid_fraction=0.05, seed=1)
    by_speaker: dict[str, list[str]] = {}
    for utterance in found:
        by_speaker.setdefault(utterance.speaker, []).append(utterance.split)
    unseen = [s for s, values in by_speaker.items() if "unseen" in values]
    assert len(unseen) == 2
    for speaker, values in by_speaker.items():
        if speaker in unseen:
            assert set(values) == {"unseen"}
        else:
            assert sorted(values) == ["train"] * 9 + ["valid"]


def test_splits_depend_on_the_seed_but_not_on_the_order():
    utterances = corpus(12, 30)
    shuffled = random.Random(0).sample(utterances, len(utterances))
    kwargs = {"valid_fraction": 0.2, "seed": 3}
    assert splits(utterances, **kwargs) == splits(shuffled, **kwargs)
    assert splits(utterances, **kwargs) != splits(utterances, valid_fraction=0.2, seed=4)


def test_speakers_of_one_utterance_are_validated_as_a_pool():
    found = list(splits(corpus(100, 1), valid_fraction=0.1, heldout_speakers=0).values())
    assert found.count("valid") == 10
    assert found.count("train") == 90


def test_no_one_is_held_out_among_few_or_unknown_speakers():
    assert "unseen" not in splits(corpus(3, 5)).values()
    unknown = [Utterance(f"{i}", f"/{i}.wav", "unknown") for i in range(20)]
    assert sorted(set(splits(unknown).values())) == ["train", "valid"]


def test_given_splits_win_and_given_unseen_speakers_are_the_heldout_ones():
    utterances = corpus(6, 6)
    utterances[0] = Utterance("s0/0", "/x", "s0", split="unseen")
    utterances[7] = Utterance("s1/1", "/x", "s1", split="valid")
    found = splits(utterances)
    assert found["s0/0"] == "unseen"
    assert found["s1/1"] == "valid"
    assert {name for name, split in found.items() if split == "unseen"} == {
        f"s0/{i}" for i in range(6)
    }


def test_named_heldout_speakers_and_impossible_requests():
    found = splits(corpus(3, 5), heldout_speakers=["s1"])
    assert {n for n, split in found.items() if split == "unseen"} == {f"s1/{i}" for i in range(5)}
    for wrong in ({"heldout_speakers": ["s9"]}, {"heldout_speakers": 3}, {"valid_fraction": 1.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            assign_splits(corpus(3, 5), **wrong)
