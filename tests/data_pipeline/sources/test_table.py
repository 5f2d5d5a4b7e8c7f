"""Tables as people write them give the records that were meant, or name the row that does not."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.runtime.errors import UserError
from data_pipeline.sources import FolderSource, KaldiSource, ManifestSource
from data_pipeline.sources.tables import NAMES, read_table

UNMATCHED = "unmatched quotation mark"
texts = (
    st.text(
        st.one_of(
            st.sampled_from('",;|\t\n \\a'), st.characters(exclude_categories=("Cs", "Cc", "Zs"))
        ),
        max_size=12,
    )
    .map(str.strip)
    .filter(lambda text: not text.startswith("\ufeff"))
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


def rows_of(path, content: str | bytes) -> list[tuple[int, dict, str]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [tuple(row) for row in read_table(path).rows]


def cells_of(path, content: str | bytes) -> list[dict]:
    rows = rows_of(path, content)
    assert not [problem for _, _, problem in rows if problem]
    return [{name: cell for name, cell in cells.items() if cell} for _, cells, _ in rows]


def written(rows, **how) -> str:
    file = io.StringIO()
    csv.writer(file, **how).writerows(rows)
    return file.getvalue()


@given(
    st.data(),
    st.lists(st.tuples(texts, st.sampled_from(["", "ann", "bob"])), min_size=1, max_size=5),
    st.permutations(["path", "speaker", "text"]),
    st.sampled_from(
        [
            {"dialect": "excel"},
            {"dialect": "excel-tab"},
            {"dialect": "unix"},
            {"dialect": "excel", "delimiter": ";"},
            {"dialect": "unix", "delimiter": "|"},
        ]
    ),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC, csv.QUOTE_NONE]),
    st.sampled_from(["t.csv", "t.tsv"]),
)
def test_what_a_csv_writer_wrote_is_read_back(folder, data, spoken, order, how, quoting, name):
    if quoting == csv.QUOTE_NONE:
        how = {**how, "escapechar": "\\"}
        spoken = [(text.replace("\\", ""), speaker) for text, speaker in spoken]
        if how["dialect"] == "unix":  # whose writer leaves \r as it is
            spoken = [(text.replace("\r", ""), speaker) for text, speaker in spoken]
    rows = [
        {"path": f"a{number}, b.wav", "speaker": speaker, "text": text.strip()}
        for number, (text, speaker) in enumerate(spoken)
    ]
    if quoting == csv.QUOTE_NONE or data.draw(st.booleans(), "header"):
        table = [order, *([row[name] for name in order] for row in rows)]
    else:
        rows = [{"path": f"a{n}.wav", "text": row["text"]} for n, row in enumerate(rows)]
        table = [list(row.values()) for row in rows]
    meant = [{name: cell for name, cell in row.items() if cell} for row in rows]
    assert cells_of(folder / name, written(table, **how, quoting=quoting)) == meant


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_backslash_at_the_end_of_a_row_is_text(folder, end):
    table = end.join(["a0.wav,\\", "a1.wav,", "a2.wav,b", ""])
    first = {"path": "a0.wav", "text": "\\"}
    expected = [first, {"path": "a1.wav"}, {"path": "a2.wav", "text": "b"}]
    assert cells_of(folder / "t.csv", table) == expected


@given(st.lists(texts, min_size=1, max_size=5), st.booleans())
def test_json_lines_are_read_back(folder, spoken, ascii_only):
    lines = [
        json.dumps({"audio_filepath": "a.wav", "Text": text}, ensure_ascii=ascii_only)
        for text in spoken
    ]
    found = cells_of(folder / "t.jsonl", "\n".join(lines))
    assert [row.get("text", "") for row in found] == [text.strip() for text in spoken]


@given(
    st.lists(texts.map(lambda text: text.replace('"', "")), min_size=3, max_size=8),
    st.integers(0, 7),
    st.sampled_from(",;\t"),
    st.booleans(),
)
def test_one_unmatched_mark_costs_one_row(folder, spoken, at, delimiter, close):
    at %= len(spoken)
    flat = [text.replace("\n", " ").strip() for text in spoken]
    lines = [written([[f"{n}.wav", text]], delimiter=delimiter) for n, text in enumerate(flat)]
    broken = f'{at}.wav{delimiter}"one two\r\n'
    lines[at] = broken
    if close and at + 1 < len(lines):  # a mark far behind, that seems to close it
        lines[-1] = f'{len(lines) - 1}.wav{delimiter}three"\r\n'
        flat[-1] = 'three"'
    rows = rows_of(folder / "t.csv", f"path{delimiter}text\n" + "".join(lines))
    bad = [(line, problem) for line, _, problem in rows if problem]
    assert [line for line, _ in bad] == [at + 2]
    assert UNMATCHED in bad[0][1]
    good = {cells["path"]: cells["text"] for _, cells, problem in rows if not problem}
    assert good == {f"{n}.wav": text.strip() for n, text in enumerate(flat) if n != at}


def test_a_quoted_line_break_is_text_and_lines_are_counted_from_the_first(folder):
    content = 'path,text\n"a.wav","one\ntwo, ""three"""\n\nb.wav,"four\n'
    rows = rows_of(folder / "t.csv", content)
    assert rows[0] == (2, {"path": "a.wav", "text": 'one\ntwo, "three"'}, "")
    assert (rows[1][0], rows[1][2][: len(UNMATCHED)]) == (5, UNMATCHED)


@pytest.mark.parametrize(
    "content",
    [
        "path, speaker, text\na.wav, ann, one two\n",
        'Path , "SPEAKER", Text\n"a.wav" , "ann" , "one two"\n',
        "text;speaker;path\none two;ann;a.wav\n",
        "client_id\tpath\tsentence\tup_votes\nann\ta.wav\tone two\t2\n",  # Common Voice
        "speaker|transcription|file_name\nann|one two|a.wav\n",  # AudioFolder
        "sep=;\r\npath;speaker;text;;\r\na.wav;ann;one two;;\r\n;;;;\r\n",  # Excel
        ",path,speaker_id,text_normalized\n0,a.wav,ann,one two\n",  # pandas, LibriTTS
        "a.wav|ann|one two\na.wav|ann|one two\n",  # VITS
        "\ufeffpath,speaker,text\r\na.wav,ann,one two,,\r\n",
        "audio_path,TEXT,Speaker-ID\ra.wav,one two,ann\r",
    ],
)
def test_spellings_of_one_table(folder, content):
    row = {"path": "a.wav", "speaker": "ann", "text": "one two"}
    assert all(found == row for found in cells_of(folder / "t.csv", content))
    for encoding in ("utf-16", "utf-32", "utf-8-sig"):
        assert row in cells_of(folder / "t.csv", content.strip("\ufeff").encode(encoding))


def test_every_documented_name_is_understood(folder):
    for ours, names in NAMES.items():
        for name in names:
            header = f"path,{name.upper()}" if ours != "path" else f"x,{name.upper()}"
            content = f"{header}\na.wav,train\n" if ours != "path" else f"{header}\n0,train\n"
            assert cells_of(folder / "t.csv", content)[0][ours] == "train"


def test_marks_that_are_text(folder):
    tabs = 'path\ttext\na.wav\t"so" she said\nb.wav\tthe 6" pipe\n'
    assert [row["text"] for row in cells_of(folder / "t.tsv", tabs)] == [
        '"so" she said', 'the 6" pipe',
    ]  # fmt: skip
    lj = 'LJ01-1|the "Bible|the "Bible\nLJ01-2|"one" two 3|"one" two three\nLJ01-3|four"|\n'
    assert [row["text"] for row in cells_of(folder / "metadata.csv", lj)] == [
        'the "Bible', '"one" two three', 'four"',
    ]  # fmt: skip
    commas = 'path,text\na.wav,"so, so" she said\nb.wav,"a" b, "c" d\n'
    rows = rows_of(folder / "t.csv", commas)
    assert rows[0][1]["text"] == "so, so she said"
    assert "quotation mark" in rows[1][2]


def test_a_cell_may_be_long_and_hold_unusual_characters(folder):
    text = "word " * 100_000 + "\u2028\u2029\x85 \t end"
    for name, content in {
        "t.csv": f'path,text\na.wav,"{text}"\nb.wav,two\n',
        "t.tsv": f'path\ttext\na.wav\t"{text}"\nb.wav\ttwo\n',
        "t.jsonl": f"{json.dumps({'path': 'a.wav', 'text': text}, ensure_ascii=False)}\n"
        '{"path": "b.wav", "text": "two"}\n',
    }.items():
        assert [row["text"] for row in cells_of(folder / name, content)] == [text, "two"]
    assert csv.field_size_limit() == 131072


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (b"one \xff two", "byte 0xFF, which is not UTF-8"),
        (b"gr\xfc\xdfe", "byte 0xFC"),
        (b"\xed\xa0\x80", "not UTF-8"),
        (b"one\x00two", "U+0000"),
        (b"one\x1btwo", "U+001B"),
        ("one\x92two".encode(), "U+0092"),
    ],
)
def test_a_flaw_costs_its_row(folder, cell, said):
    rows = rows_of(folder / "t.csv", b"path,text,x\na.wav,one,\xff\nb.wav," + cell + b",\n")
    assert [(line, bool(problem)) for line, _, problem in rows] == [(2, False), (3, True)]
    assert said in rows[1][2]
    lines = b'{"path": "a.wav", "text": "one"}\n{"path": "b.wav", "text": "' + cell + b'"}\n'
    rows = rows_of(folder / "t.jsonl", lines)
    assert [(line, bool(problem)) for line, _, problem in rows] == [(1, False), (2, True)]


def test_json_values_that_are_no_texts(folder):
    lines = (
        '{"path": "a.wav", "text": "one"}\n{"path": "b.wav", "text": ["two"]}\n'
        '{"path": "c.wav", "text": "\\ud800"}\n[1]\n{"path":\n'
        '{"path": "d.wav", "text": 4, "speaker": null}\n'
    )
    rows = rows_of(folder / "t.jsonl", lines)
    starts = ["", "text is a list", "column 'text'", "not a JSON object", "not a JSON object", ""]
    for (*_, problem), start in zip(rows, starts, strict=True):
        assert problem.startswith(start)
        assert bool(problem) == bool(start)
    assert rows[-1][1]["text"] == "4"
    array = '[{"path": "a.wav",\n "text": "one"}, {"path": "b.wav"}]'
    assert [row["path"] for row in cells_of(folder / "t.json", array)] == ["a.wav", "b.wav"]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("file,text\na.wav,one\n", ("'file', 'text'", "column 'file' holds paths")),
        ("one two,a.wav\nthree,b.wav\n", ("no column 'path'", "'one two', 'a.wav'")),
        ("a.wav,one,two,3\n", ("no header", "'a.wav', 'one', 'two', '3'")),
        ("path,text,Text\na.wav,one,two\n", ("two columns 'text'",)),
        ("", ("no column 'path'", "none")),
        ("path,text\n".encode("utf-16-le"), ("UTF-16", "save it as UTF-8")),
        (b"path,text\n\xff,one\n", ("no row can be used; line 2", "not UTF-8")),
        (b"\xff\xfep\0a\0t", ("damaged",)),
    ],
)
def test_tables_that_are_not_clear_are_refused_with_what_was_found(folder, content, parts):
    with pytest.raises(UserError) as caught:
        rows_of(folder / "t.csv", content)
    for part in ("t.csv", *parts):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("path,words_spoken\na.wav,x\n", "'words_spoken' looks like a transcript"),
        ("path,Satz\na.wav,eins zwei\nb.wav,drei vier\n", "'Satz' looks like a transcript"),
        ("path,start_ms,end_ms\na.wav,0,3000\n", "'start_ms', 'end_ms' looks like times"),
        ("path,original_path,begin_time\na.wav,b.mp3,3\n", "'begin_time' looks like times"),
        ("a.wav,one\n", "no header: columns are read as path, text"),
        ("path,text,note\na.wav,one,two three\n", ""),
        ("path,duration,gender\na.wav,3.0,female\n", ""),
    ],
)
def test_columns_that_are_not_understood_are_said(folder, capsys, content, said):
    rows_of(folder / "t.csv", content)
    error = capsys.readouterr().err
    assert said in error
    assert bool(said) == bool(error)


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(path.name.encode())


def test_ljspeech_and_common_voice_as_they_are_downloaded(tmp_path):
    touch(tmp_path / "lj/wavs/LJ001-0001.wav")
    touch(tmp_path / "lj/wavs/LJ001-0002.wav")
    table = tmp_path / "lj/metadata.csv"
    table.write_text('LJ001-0001|in 1450 "so|in fourteen fifty "so\nLJ001-0002|two"|two"\n')
    for source in (ManifestSource(table), FolderSource(tmp_path / "lj", table)):
        utterances, failures = source.list()
        assert failures == []
        assert [u.text for u in utterances] == ['in fourteen fifty "so', 'two"']
    touch(tmp_path / "cv/clips/common_voice_de_1.mp3")
    table = tmp_path / "cv/validated.tsv"
    table.write_text("client_id\tpath\tsentence\tlocale\nx\tcommon_voice_de_1.mp3\teins\tde\n")
    utterances, failures = ManifestSource(table).list()
    assert failures == []
    assert [(u.speaker, u.text, u.language) for u in utterances] == [("x", "eins", "de")]


def test_bad_rows_are_failures_with_their_line_and_the_corpus_goes_on(tmp_path):
    for name in "abcd":
        touch(tmp_path / f"{name}.wav")
    table = tmp_path / "t.csv"
    table.write_bytes(b'path,text\na.wav,one\nb.wav,"two\nc.wav,thr\xffe\nd.wav,"four\nfive"\n')
    long_path = b"x" * 5000 + b".wav,six\n"
    table.write_bytes(table.read_bytes() + long_path)
    for source in (ManifestSource(table), FolderSource(tmp_path, table)):
        utterances, failures = source.list()
        assert [(u.id, u.text) for u in utterances] == [("a", "one"), ("d", "four\nfive")]
        said = " ".join(failure.reason for failure in failures)
        for part in (f"line 3 of t.csv: {UNMATCHED}", "line 4 of t.csv", "line 7 of t.csv"):
            assert part in said


def test_kaldi_tables_with_tabs_and_one_bad_line(tmp_path):
    for name in "abcd":
        touch(tmp_path / f"{name}.wav")
    (tmp_path / "wav.scp").write_text("".join(f"{n}\t{n}.wav\n" for n in "abcd"))
    (tmp_path / "text").write_bytes(
        "a\tone\u2028two \x85 three\r\nb \t four\n".encode() + b"c\tf\xefve\nd\tsix\0\ne\t\xff\n"
    )
    utterances, failures = KaldiSource(tmp_path).list()
    assert [(u.id, u.text) for u in utterances] == [("a", "one\u2028two \x85 three"), ("b", "four")]
    said = {failure.id: failure.reason for failure in failures}
    assert said.keys() == {"c", "d", "e"}
    assert "line 3 of text holds the byte 0xEF" in said["c"]
    assert "line 4 of text holds the control character U+0000" in said["d"]
