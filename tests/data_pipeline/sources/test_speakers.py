"""Whose voice: rules that name speakers, what is printed about them, and who is held out."""

import pytest

from data_pipeline.runtime.errors import UserError
from data_pipeline.sources import FolderSource, assign_splits, open_source
from data_pipeline.sources.speakers import is_date, parse_heldout


def make_tree(root, *names: str):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"not read here")
    return root


def speakers(root, **options) -> list[str]:
    return [item.speaker for item in FolderSource(root, **options).list()[0]]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["anna/wavs/1.wav", "ben/wavs/1.wav"], ["anna", "ben"]),
        (["anna/wavs/1.wav", "anna/wavs/2.wav"], ["anna", "anna"]),
        (["wavs/anna/1.wav", "wavs/ben/1.wav"], ["anna", "ben"]),
        (["train/anna/audio/1.wav", "test-other/ben/audio/1.wav"], ["ben", "anna"]),
        (["anna/mon/1.wav", "anna/tue/1.wav", "ben/mon/1.wav"], ["anna", "anna", "ben"]),
        # An archive's own folder says nothing, and neither does a date.
        (["VCTK/wav48_silence_trimmed/p225/1.flac", "VCTK/txt/p226/1.flac"], ["txt", "p225"]),
        (["VCTK/wav48/p225/1.flac", "VCTK/wav48/p226/1.flac"], ["p225", "p226"]),
        (["anna/2021-03-15/1.wav", "ben/20210316/1.wav"], ["anna", "ben"]),
        (["2021/03/15/anna/1.wav", "2021/03/16/ben/1.wav"], ["anna", "ben"]),
        (["2021-03-15/1.wav", "2021-03-16/1.wav"], ["unknown", "unknown"]),
        (["wavs/1.wav", "clips/1.wav"], ["unknown", "unknown"]),
        (["mine/1.wav", "mine/2.wav"], ["unknown", "unknown"]),
        (["2021-03-15.wav", "2022-11-02.wav"], ["unknown", "unknown"]),
        (["15-03-2021.wav", "a/20210315-120000-0001.wav"], ["unknown", "a"]),
        # As in datasets made before there were rules.
        (["84/121/84-121-0000.flac", "84/12/84-12-0001.flac"], ["84", "84"]),
        (["2021/3/2021-3-0000.flac", "2012/11/2012-11-0003.flac"], ["2012", "2021"]),
        (["84/1.wav", "121/1.wav", "2021/2.wav"], ["121", "2021", "84"]),
        (["anna/1.wav", "top.wav"], ["anna", "unknown"]),
    ],
)
def test_auto_takes_the_folder_that_tells_speakers_apart(tmp_path, names, expected) -> None:
    assert speakers(make_tree(tmp_path, *names)) == expected


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("folder", ["wavs", "anna", "unknown", "unknown"]),
        ("parent", ["ben", "x", "unknown", "unknown"]),
        ("prefix", ["b", "a1", "unknown", "t"]),
        ("none", ["unknown"] * 4),
    ],
)
def test_rules_take_what_they_say(tmp_path, rule: str, expected: list[str]) -> None:
    names = ("wavs/ben/b_1.wav", "anna/x/a1-7_2.wav", "2021-03-15_noon.wav", "t_1.wav")
    make_tree(tmp_path, *names)
    found = {item.id: item.speaker for item in FolderSource(tmp_path, speaker_from=rule).list()[0]}
    assert [found[name.removesuffix(".wav")] for name in names] == expected
    by_name = open_source(f"folder:{tmp_path}?speaker_from={rule}").list()[0]
    assert {item.id: item.speaker for item in by_name} == found


def test_a_column_is_taken_by_auto_column_and_a_pattern_only(tmp_path) -> None:
    make_tree(tmp_path, "x/1.wav", "y/2.wav")
    table = tmp_path / "t.csv"
    table.write_text("path,speaker\nx/1.wav,anna\ny/2.wav,\n", encoding="utf-8")
    expected = {"auto": ["anna", "y"], "column": ["anna", "unknown"], "none": ["unknown"] * 2}
    expected |= {"folder": ["x", "y"], "parent": ["x", "y"], "prefix": ["unknown"] * 2}
    for rule, names in expected.items():
        assert speakers(tmp_path, transcripts=table, speaker_from=rule) == names, rule
    assert speakers(tmp_path, transcripts=table, speaker_pattern="(.)/") == ["anna", "y"]
    table.write_text("path,text\nx/1.wav,one\ny/2.wav,two\n", encoding="utf-8")
    for transcripts in (table, None):
        with pytest.raises(UserError, match="speaker_from=column needs a table"):
            speakers(tmp_path, transcripts=transcripts, speaker_from="column")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speaker_pattern": "(", "speaker_from": "auto"}, "speaker_pattern"),
        ({"speaker_pattern": "(a)", "speaker_from": "folder"}, "exclude each other"),
        ({"speaker_from": "file"}, "not one of auto, folder, parent, prefix, column, none"),
    ],
)
def test_rules_that_do_not_exist_or_exclude_each_other(tmp_path, options, message) -> None:
    with pytest.raises(UserError, match=message):
        speakers(make_tree(tmp_path, "a.wav"), **options)


def test_the_rule_is_printed_with_its_number_and_three_examples(tmp_path, capsys) -> None:
    make_tree(tmp_path, *(f"{name}/wavs/{n}.wav" for name in "abcd" for n in (1, 2)), "odd.wav")
    speakers(tmp_path)
    said = capsys.readouterr().err
    assert said == (
        "speakers: 4 found by the folders' names: a (a/wavs/1), b (b/wavs/1), c (c/wavs/1); "
        "1 of 9 recordings have no known speaker\n"
    )


@pytest.mark.parametrize(
    ("names", "options", "warning"),
    [
        (["rec/1.wav", "rec/2.wav"], {}, "no speaker is known, all 2 recordings"),
        (["a_1.wav", "a_2.wav"], {"speaker_from": "prefix"}, "one speaker, a, for all 2"),
        (["1-x.wav", "2-x.wav"], {"speaker_from": "prefix"}, "as many speakers as recordings (2)"),
        (["a/1.wav", "b/1.wav"], {"speaker_pattern": "(.*)"}, "as many speakers as recordings"),
        (["a/1.wav", "a/2.wav", "b/1.wav"], {}, None),
        (["rec/1.wav", "rec/2.wav"], {"speaker_from": "none"}, None),
    ],
)
def test_unlikely_speakers_are_a_warning(tmp_path, capsys, names, options, warning) -> None:
    speakers(make_tree(tmp_path, *names), **options)
    said = capsys.readouterr().err
    assert (f"warning: {warning}" in said) if warning else ("warning" not in said)
    assert said.startswith("speakers: ")


def test_other_sources_say_who_speaks_too(tmp_path, capsys) -> None:
    make_tree(tmp_path, "anna/wavs/1.wav", "anna/wavs/2.wav", "ben/wavs/3.wav")
    rows = ["anna/wavs/1.wav,eve", "anna/wavs/2.wav,", "ben/wavs/3.wav,"]
    (tmp_path / "m.csv").write_text("\n".join(["path,speaker", *rows]) + "\n")
    expected = {"auto": ["eve", "anna", "ben"], "parent": ["wavs"] * 3}
    expected |= {"column": ["eve", "unknown", "unknown"]}
    for rule, names in expected.items():
        name = f"manifest:{tmp_path / 'm.csv'}?speaker_from={rule}"
        assert [item.speaker for item in open_source(name).list()[0]] == names
    said = capsys.readouterr().err
    assert "speakers: 3 found by the folders' names and the column speaker: eve (anna/" in said
    assert "warning: one speaker, wavs, for all 3 recordings" in said
    (tmp_path / "wav.scp").write_text("u1 anna/wavs/1.wav\nu2 anna/wavs/2.wav\nu3 ben/wavs/3.wav\n")
    (tmp_path / "utt2spk").write_text("u1 anna\nu2 anna\nu3 ben\n")
    open_source(f"kaldi:{tmp_path}").list()
    assert capsys.readouterr().err == "speakers: 2 found by utt2spk: anna (u1), ben (u3)\n"


@pytest.mark.parametrize(
    "name",
    [
        *("2021-03-15", "2021_03_15", "2021.03.15", "20210315", "15.03.2021", "03-15-2021"),
        *("15-3-2021", "2021-03", "21-03-15", "2021-03-15T12:30", "20210315_123000"),
        *("2021-03-15 at 12.30.15", "20210315123000", "1999-12-31"),
    ],
)
def test_dates(name: str) -> None:
    assert is_date(name)


@pytest.mark.parametrize(
    "name",
    [
        *("84-121-0000", "2012-11-0003", "20211340", "2021", "103", "12345678", "p225", "anna"),
        *("2021-03-32", "id10001", "1034-12-0001", "2012-110-0003", "anna-2021-03-15", ""),
    ],
)
def test_what_is_no_date(name: str) -> None:
    assert not is_date(name)


def test_heldout_speakers_are_a_count_or_names() -> None:
    assert parse_heldout(None) is None
    assert parse_heldout("84") == 84
    assert parse_heldout("84,") == parse_heldout("name:84") == ("84",)
    assert parse_heldout("84, 121,84") == ("84", "121")
    assert parse_heldout("anna") == ("anna",)
    for wrong in ("", " , ", "-3", "0.5", "+1"):
        with pytest.raises(UserError, match="heldout_speakers"):
            parse_heldout(wrong)


def test_speakers_whose_names_are_numbers_can_be_held_out(tmp_path) -> None:
    make_tree(tmp_path, *(f"{s}/{n}.wav" for s in (84, 121, 7) for n in range(3)))
    utterances = FolderSource(tmp_path).list()[0]
    split = assign_splits(utterances, heldout_speakers=parse_heldout("84,121"))
    assert {item.speaker for item in split if item.split == "unseen"} == {"84", "121"}
    with pytest.raises(UserError, match=r"from 0 to 2.*--heldout_speakers=84, \(with a comma\)"):
        assign_splits(utterances, heldout_speakers=parse_heldout("84"))
    with pytest.raises(UserError, match=r"no recordings of 85; the 3 known speakers are .*121, 7"):
        assign_splits(utterances, heldout_speakers=parse_heldout("85,"))
