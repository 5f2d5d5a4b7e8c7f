"""Every file below the audio folder is accounted for, and rows of tables find their files."""

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipeline.runtime.errors import UserError
from data_pipeline.sources import FolderSource
from data_pipeline.sources.files import find_audio


def make_tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"not read here")
    return root


def found(root, **options) -> tuple[list[str], dict[str, str]]:
    """Ids of the utterances, and reasons by the names of the files that failed."""
    utterances, failures = FolderSource(root, **options).list()
    reasons = {os.path.relpath(item.path, root): item.reason for item in failures}
    assert len(reasons) == len(failures)
    return [item.id for item in utterances], reasons


def test_every_readable_kind_is_used_and_others_fail_with_the_remedy(tmp_path, capsys) -> None:
    make_tree(tmp_path, "a.wav", "b.AIFF", "c.opus", "d.flac", "e.w64", "f.aif")
    make_tree(tmp_path, "g.m4a", "h.AAC", "i.wma", "j.mp4", "k.mkv", "l.amr", "m.txt", "n", "o.csv")
    used, reasons = found(tmp_path)
    assert used == ["a", "b", "c", "d", "e", "f"]
    assert sorted(reasons) == ["g.m4a", "h.AAC", "i.wma", "j.mp4", "k.mkv", "l.amr"]
    assert all("ffmpeg" in reason for reason in reasons.values())
    said = capsys.readouterr().err
    assert "left out 3 files that are no audio (" in said
    assert all(f"{ending} 1" in said for ending in (".txt", ".csv", "without suffix"))
    assert "hidden" not in said


def test_a_folder_of_unreadable_kinds_only_is_an_error_with_the_remedy(tmp_path) -> None:
    with pytest.raises(UserError, match=r"no recordings .*a\.m4a \(and 1 others\): .*ffmpeg"):
        FolderSource(make_tree(tmp_path, "a.m4a", "b.mp4")).list()


def test_hidden_recordings_and_folders_are_said(tmp_path, capsys) -> None:
    make_tree(tmp_path, "a.wav", ".b.wav", "._a.wav", ".DS_Store", ".cache/c.wav")
    assert found(tmp_path) == (["a"], {})
    assert "left out 2 hidden files or folders, such as" in capsys.readouterr().err


def test_linked_folders_and_files_are_followed_and_loops_are_cut(tmp_path, capsys) -> None:
    root = make_tree(tmp_path / "audio", "own/1.wav")
    make_tree(tmp_path, "far/2.wav", "far/deep/3.wav", "single.flac", "far2/4.wav")
    (root / "linked").symlink_to(tmp_path / "far")
    (root / "file.flac").symlink_to(tmp_path / "single.flac")
    (root / "own" / "up").symlink_to("..")
    (root / "own" / "self").symlink_to(".")
    (root / "out").symlink_to(tmp_path)  # holds the audio folder
    (tmp_path / "far" / "onward").symlink_to(tmp_path / "far2")
    (tmp_path / "far2" / "back").symlink_to(tmp_path / "far")
    assert found(root) == (
        ["file", "linked/2", "linked/deep/3", "linked/onward/4", "own/1"],
        {},
    )
    said = capsys.readouterr().err
    assert "3 links to folders that are searched anyway" in said
    assert "1 links to a folder that they are in" in said


def test_a_recording_of_several_names_counts_once_by_its_own_name(tmp_path, capsys) -> None:
    make_tree(tmp_path, "z/own.wav", "b/own.flac")
    (tmp_path / "a").symlink_to("z")
    (tmp_path / "a.wav").symlink_to("z/own.wav")
    (tmp_path / "b" / "other.flac").symlink_to("own.flac")
    os.link(tmp_path / "b" / "own.flac", tmp_path / "b" / "hard.flac")
    assert found(tmp_path) == (["b/hard", "z/own"], {})
    assert "3 further names of recordings that count once" in capsys.readouterr().err
    (tmp_path / "z").rename(tmp_path.parent / f"{tmp_path.name}-moved")
    (tmp_path / "a").unlink()
    for name in ("y", "c"):
        (tmp_path / name).symlink_to(tmp_path.parent / f"{tmp_path.name}-moved")
    (tmp_path / "a.wav").unlink()
    assert found(tmp_path) == (["b/hard", "c/own"], {})


def test_broken_links_and_what_is_no_file_are_named(tmp_path) -> None:
    make_tree(tmp_path, "a.wav")
    (tmp_path / "gone.wav").symlink_to("nowhere.wav")
    (tmp_path / "folder").symlink_to("/no/such/folder")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    used, reasons = found(tmp_path)
    assert used == ["a"]
    assert sorted(reasons) == ["folder", "gone.wav", "loop.wav", "pipe.wav"]
    assert "'nowhere.wav'" in reasons["gone.wav"]
    assert "No such file" in reasons["gone.wav"]
    assert "'/no/such/folder'" in reasons["folder"]
    assert "leads to itself" in reasons["loop.wav"]
    assert reasons["pipe.wav"] == "not a regular file"


def test_a_link_of_another_suffix_does_not_take_the_recording_away(tmp_path) -> None:
    make_tree(tmp_path, "a.wav")
    (tmp_path / "b.m4a").symlink_to("a.wav")
    used, reasons = found(tmp_path)
    assert (used, list(reasons)) == (["a"], ["b.m4a"])


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch) -> None:
    make_tree(tmp_path, "a.wav", "locked/b.wav")
    scandir = os.scandir

    def refuses(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuses)
    with pytest.raises(UserError, match=r"locked: Permission denied; .*--exclude="):
        FolderSource(tmp_path).list()
    assert found(tmp_path, exclude=str(tmp_path / "locked")) == (["a"], {})


def test_outputs_below_the_audio_folder_are_left_out(tmp_path, monkeypatch) -> None:
    make_tree(tmp_path, "a.wav", "runs/demo/samples/x.wav", "old/y.wav", "link_target/z.wav")
    work = str(tmp_path / "runs" / "demo")
    assert found(tmp_path, exclude=(work, "/elsewhere", str(tmp_path.parent)))[0] == [
        *("a", "link_target/z", "old/y")
    ]
    (tmp_path / "alias").symlink_to(work)
    (tmp_path / "inner").symlink_to(f"{work}/samples")
    monkeypatch.chdir(tmp_path)
    exclude = ("alias", "old", str(tmp_path / "link_target"), "not/yet/there", "a.wav")
    with pytest.raises(UserError, match="no recordings"):
        found(tmp_path, exclude=exclude)
    assert found(tmp_path, exclude=exclude[:-1])[0] == ["a"]
    with pytest.raises(UserError, match="is also the output"):
        found(tmp_path, exclude=(".",))


def test_rows_without_file_and_files_without_row_are_told_apart(tmp_path) -> None:
    make_tree(tmp_path, "a.wav", "b.wav", "c.m4a", "d.m4a")
    (tmp_path / "e.wav").symlink_to("nowhere")
    table = tmp_path / "t.csv"
    table.write_text("path,text\na.wav,one\ngone.wav,two\nc.m4a,three\ne.wav,four\n")
    used, reasons = found(tmp_path, transcripts=table)
    assert used == ["a"]
    assert sorted(reasons) == ["b.wav", "c.m4a", "d.m4a", "e.wav", "gone.wav"]
    assert "no row in transcripts file t.csv" in reasons["b.wav"]
    assert reasons["gone.wav"] == "line 3 of t.csv names a file that does not exist"
    assert "ffmpeg" in reasons["d.m4a"]
    assert reasons["c.m4a"].startswith("line 4 of t.csv: ")
    assert "'nowhere'" in reasons["e.wav"]


NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("file", "written"),
    [
        (f"x/{NFD}.wav", f"x/{NFC}.wav"),
        (f"x/{NFC}.wav", f"x/{NFD}.wav"),
        (f"{NFD}/1.wav", f"{NFC.upper()}/1.WAV"),
        ("Anna/Wavs/One.WAV", "anna/wavs/one.wav"),
        ("anna/1.wav", r"anna\1.wav"),
        ("anna/1.wav", r".\Anna\1.wav"),
        ("anna/1.wav", "/anna/1.wav"),
        ("straße/1.wav", "STRASSE/1.wav"),
        ("wavs/LJ001-0001.wav", "LJ001-0001"),
        ("clips/common_voice.mp3", "common_voice.mp3"),
        ("anna/1.flac", "anna/1"),
    ],
)
def test_names_that_are_written_otherwise_are_matched_with_a_word(
    tmp_path, capsys, file: str, written: str
) -> None:
    make_tree(tmp_path, file)
    table = tmp_path / "t.csv"
    table.write_text(f"path,text\n{written},one\n", encoding="utf-8")
    utterances, failures = FolderSource(tmp_path, table).list()
    assert failures == []
    assert [(item.path, item.text) for item in utterances] == [(str(tmp_path / file), "one")]
    said = capsys.readouterr().err
    assert "t.csv: 1 paths are written otherwise than the files' names" in said
    assert f"{written!r} (line 2 of t.csv) for" in said


def test_plain_ways_to_write_a_path_need_no_word(tmp_path, capsys) -> None:
    make_tree(tmp_path, "audio/anna/1.wav", "audio/anna/2.wav")
    table = tmp_path / "t.csv"
    table.write_text("path\n./anna//1.wav\naudio/anna/../anna/2.wav\n")
    utterances, failures = FolderSource(tmp_path / "audio", table).list()
    assert ([item.id for item in utterances], failures) == (["anna/1", "anna/2"], [])
    assert "otherwise" not in capsys.readouterr().err


def test_a_name_that_may_mean_two_files_fails_with_both(tmp_path) -> None:
    make_tree(tmp_path, "A.wav", "a.WAV", "b.wav", "B.wav", "c.flac", "c.wav")
    table = tmp_path / "t.csv"
    table.write_text("path\na.wav\nb.wav\nB.wav\nc\n")
    used, reasons = found(tmp_path, transcripts=table)
    assert used == ["B", "b"]
    assert sorted(reasons) == ["a.wav", "c"]
    assert "line 2 of t.csv may mean A.wav and a.WAV: " in reasons["a.wav"]
    assert "c.flac and c.wav" in reasons["c"]


def test_the_closest_spelling_wins(tmp_path) -> None:
    make_tree(tmp_path, f"{NFD}.wav", f"{NFD.upper()}.wav")
    table = tmp_path / "t.csv"
    table.write_text(f"path\n{NFC}.wav\n{NFC.upper()}.wav\n", encoding="utf-8")
    assert found(tmp_path, transcripts=table) == ([NFD.upper(), NFD], {})


def test_no_input_is_counted_twice(tmp_path) -> None:
    make_tree(tmp_path, "own/1.wav", "own/2.wav")
    (tmp_path / "link").symlink_to("own")
    table = tmp_path / "t.csv"
    rows = ["own/1.wav,one", "own/1.wav,again", "OWN/1.wav,again", "link/1.wav,again"]
    table.write_text("\n".join(["path,text", *rows, "own/2.wav,", "own/2.wav,two"]) + "\n")
    utterances, failures = FolderSource(tmp_path, table).list()
    assert [(item.id, item.text) for item in utterances] == [("own/1", "one"), ("own/2", "two")]
    assert [item.reason for item in failures] == [
        *(
            f"duplicate: line {line} of t.csv names the same file as line 2 of t.csv, which is used"
            for line in (3, 4, 5)
        ),
        "missing transcript: empty text in line 6 of t.csv",
    ]


def test_a_row_may_name_a_file_by_its_link(tmp_path) -> None:
    make_tree(tmp_path, "own/1.wav")
    (tmp_path / "link").symlink_to("own")
    table = tmp_path / "t.csv"
    table.write_text("path\nlink/1.wav\n")
    utterances, failures = FolderSource(tmp_path, table).list()
    assert (len(utterances), failures) == (1, [])


def test_tables_of_pieces_belong_to_another_source(tmp_path) -> None:
    make_tree(tmp_path, "a.wav")
    table = tmp_path / "t.csv"
    table.write_text("path,start,end,text\na.wav,0,1,one\na.wav,1,2,two\n")
    with pytest.raises(UserError, match=r"pieces of recordings .*--source=manifest:"):
        FolderSource(tmp_path, table).list()


def test_names_that_are_not_utf8_are_failures_that_can_be_written(tmp_path) -> None:
    make_tree(tmp_path, "a.wav")
    for name in (b"\xff.m4a", b"\xfe.wav"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb"):
            pass
    _, failures = FolderSource(tmp_path).list()
    assert len(failures) == 2
    for failure in failures:
        (failure.id + failure.path + failure.reason).encode()


# A folder's name, or a file's with its suffix, and for links the number of an earlier folder.
_ENTRIES = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from(["folder", "link", "file", "file link"]),
        st.sampled_from(["a", "b", "A", "é", "e\u0301"]),
        st.sampled_from([".wav", ".m4a", ".txt", ".OGG"]),
    ),
    max_size=14,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=_ENTRIES)
def test_every_file_that_a_tree_leads_to_is_found_once(tmp_path_factory, entries) -> None:
    root = tmp_path_factory.mktemp("tree")
    folders, files = [root], []
    for where, kind, name, suffix in entries:
        folder = folders[where % len(folders)]
        path = folder / (name if kind in ("folder", "link") else name + suffix)
        if os.path.lexists(path) or (kind == "file link" and not files):
            continue
        if kind == "folder":
            path.mkdir()
            folders.append(path)
        elif kind == "link":
            path.symlink_to(folders[(where * 7 + 1) % len(folders)])
        elif kind == "file":
            path.write_bytes(b"")
            files.append(path)
        else:
            path.symlink_to(files[where % len(files)])
    tree = find_audio(root)
    audio = {path for path in files if path.suffix in (".wav", ".OGG")}
    linked = {Path(os.path.realpath(path)) for path in tree.files}
    assert len(linked) == len(tree.files)
    assert {Path(os.path.realpath(path)) for path in audio} <= linked
    assert {path for path in files if path.suffix == ".m4a"} <= set(tree.refused)
    assert not set(tree.files) & set(tree.refused)
