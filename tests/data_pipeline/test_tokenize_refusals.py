"""Corpus to shards: bad recordings are listed, bad settings and directories are refused."""

import dataclasses
import json
from pathlib import Path

import pytest
import soundfile
from fake_corpus import BAD_FILES, RATE, FakeCodec, failures_of, files_of, signal

from data_pipeline import tokenize_corpus
from data_pipeline.datasets.token_records import RecordReader
from data_pipeline.runtime.errors import UserError


def test_bad_files_are_listed_and_the_rest_is_processed(config, calls) -> None:
    for name, make in BAD_FILES.items():
        make(Path(config.audio_dir, "bert", name))
    result = tokenize_corpus.tokenize_corpus(config)
    assert result["statistics"] == {
        "inputs": 30,
        "recorded": 24,
        "failed": 6,
        "failed_decode": 6,
        "records": 24,
    }
    failures = failures_of(config)
    assert [Path(failure["path"]).name for failure in failures] == sorted(BAD_FILES)
    assert all(failure["reason"] and failure["stage"] == "decode" for failure in failures)
    files = files_of(config.output)
    tokenize_corpus.tokenize_corpus(config)
    assert files_of(config.output) == files


def test_listing_failures_are_in_the_manifest(config, tmp_path) -> None:
    rows = [f"bert/bert{n:02d}.wav,bert,two words" for n in range(12)]
    table = tmp_path / "audio" / "table.csv"
    table.write_text("\n".join(["path,speaker,text", *rows, "bert/none.wav,bert,x"]) + "\n")
    config = dataclasses.replace(config, transcripts=str(table))
    result = tokenize_corpus.tokenize_corpus(config)
    assert result["statistics"]["inputs"] == 25
    assert result["statistics"]["failed_list"] == 13
    assert {failure["stage"] for failure in failures_of(config)} == {"list"}
    assert RecordReader(config.output, "train")[0].text == "two words"


def test_a_recording_that_a_tokenizer_refuses_is_listed(config, monkeypatch) -> None:
    encode = FakeCodec.encode

    def refuses(self, wav, sample_rate):
        if 0.58 < len(wav) / sample_rate < 0.62:
            raise ValueError("no voice in it")
        codes = encode(self, wav, sample_rate)
        return codes[:, :-20] if len(wav) / sample_rate > 1.9 else codes

    monkeypatch.setattr(FakeCodec, "encode", refuses)
    result = tokenize_corpus.tokenize_corpus(config)
    reasons = sorted(failure["reason"] for failure in failures_of(config))
    assert reasons[:2] == ["no voice in it"] * 2
    assert all(reason.startswith("the streams disagree by 0.2") for reason in reasons[2:])
    assert result["statistics"]["failed_tokenise"] == len(reasons) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio_dir": None}, "either --audio_dir or --source"),
        ({"source": "folder:x"}, "either --audio_dir or --source"),
        ({"audio_dir": None, "source": "folder:x", "transcripts": "t"}, "transcripts=FILE"),
        ({"chunking": "odd"}, "odd"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(config, changes: dict, message) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(config, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk_seconds": 20.0}, r"chunk_seconds was 30.0, is 20.0"),
        ({"seed": 1}, r"seed was 0, is 1"),
        ({"heldout_speakers": ("anna",)}, "heldout_speakers was None"),
    ],
)
def test_a_directory_of_another_run_is_refused(config, changes: dict, message: str) -> None:
    tokenize_corpus.tokenize_corpus(config)
    before = files_of(config.output)
    with pytest.raises(UserError, match=message):
        tokenize_corpus.tokenize_corpus(dataclasses.replace(config, **changes))
    assert files_of(config.output) == before


def test_other_tokenizers_and_other_recordings_are_refused(config, tmp_path) -> None:
    tokenize_corpus.tokenize_corpus(config)
    (tmp_path / "codec" / "config.json").write_text("other digest")
    with pytest.raises(UserError, match="codec was 'codec digest', is 'other digest'"):
        tokenize_corpus.tokenize_corpus(config)
    (tmp_path / "codec" / "config.json").write_text("codec digest")
    soundfile.write(Path(config.audio_dir, "anna", "new.wav"), signal(1.0, 0), RATE)
    with pytest.raises(UserError, match=r"recordings changed \(24 inputs then, 25 now\)"):
        tokenize_corpus.tokenize_corpus(config)


def test_directories_that_cannot_be_used_are_refused(config, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        tokenize_corpus.tokenize_corpus(
            dataclasses.replace(config, output=str(tmp_path / "file" / "out"))
        )
    with pytest.raises(UserError, match="is not empty"):
        tokenize_corpus.tokenize_corpus(dataclasses.replace(config, output=str(tmp_path)))
    tokenize_corpus.tokenize_corpus(config)
    next(Path(config.output).glob("*train*-00002-*")).unlink()
    with pytest.raises(UserError, match="00002-of-00005 is missing"):
        tokenize_corpus.tokenize_corpus(config)


def test_two_processes_do_not_write_one_directory(config) -> None:
    tokenize_corpus.tokenize_corpus(config)
    description = json.loads(Path(config.output, "run.json").read_text())
    with (
        tokenize_corpus.claimed(Path(config.output), description),
        pytest.raises(UserError, match="another process is writing"),
    ):
        tokenize_corpus.tokenize_corpus(config)


@pytest.mark.parametrize(
    "changes", [{"min_seconds": 0.0}, {"min_seconds": 40.0}, {"chunk_seconds": 0.5}]
)
def test_impossible_settings_are_refused(config, changes: dict) -> None:
    with pytest.raises(UserError, match="seconds"):
        dataclasses.replace(config, **changes)
