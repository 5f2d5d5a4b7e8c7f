"""Corpus to shards: what else lies in the folder, who speaks, and the flags about both."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from fake_corpus import RATE, failures_of, files_of, signal

from data_pipeline import tokenize_corpus
from data_pipeline.runtime.errors import UserError
from data_pipeline.sources import FolderSource
from data_pipeline.tokenization.config import describe, open_corpus


def test_inputs_are_records_and_failures(config, tmp_path) -> None:
    root = Path(config.audio_dir)
    for name in ("talk.m4a", "film.mp4", "notes.txt"):
        (root / name).write_bytes(b"x")
    (root / "gone.wav").symlink_to("nowhere.wav")
    (tmp_path / "far").mkdir()
    soundfile.write(tmp_path / "far" / "1.aiff", signal(1.0, 0), RATE)
    for name in ("far", "again"):
        (root / name).symlink_to(tmp_path / "far")
    result = tokenize_corpus.tokenize_corpus(config)
    assert result["statistics"] == {
        "inputs": 28,
        "recorded": 25,
        "failed": 3,
        "failed_list": 3,
        "records": 25,
    }
    names = [Path(failure["path"]).name for failure in failures_of(config)]
    assert names == ["film.mp4", "gone.wav", "talk.m4a"]


@pytest.mark.parametrize("by_name", [False, True])
def test_outputs_below_the_audio_folder_are_no_inputs(config, calls, by_name: bool) -> None:
    work = Path(config.audio_dir, "work")
    config = dataclasses.replace(config, output=str(work / "tokens"), exclude=(str(work),))
    if by_name:
        config = dataclasses.replace(config, audio_dir=None, source=f"folder:{config.audio_dir}")
    tokenize_corpus.tokenize_corpus(config)
    before = files_of(config.output)
    calls.clear()
    # Samples of the demo, and a recording that some program puts into the dataset's directory.
    for folder in (work / "samples", Path(config.output)):
        folder.mkdir(exist_ok=True)
        soundfile.write(folder / "sample.wav", signal(1.0, 0), RATE)
    result = tokenize_corpus.tokenize_corpus(config)
    assert not calls
    assert result["statistics"]["inputs"] == 24
    Path(config.output, "sample.wav").unlink()
    assert files_of(config.output) == before


def test_an_output_in_the_place_of_the_audio_folder_is_refused(config) -> None:
    same = dataclasses.replace(config, output=config.audio_dir)
    with pytest.raises(UserError, match="is also the output"):
        tokenize_corpus.tokenize_corpus(same)


def test_settings_at_their_defaults_do_not_change_the_description(config) -> None:
    listed = open_corpus(config).list()
    described = describe(config, config.audio_dir, *listed)
    assert not {"speaker_from", "exclude"} & set(described)
    assert described["speaker_pattern"] == "auto"
    other = dataclasses.replace(config, speaker_from="parent", exclude=("x",))
    assert describe(other, config.audio_dir, *listed) == described | {"speaker_from": "parent"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speaker_from": "voice"}, "not one of auto, folder"),
        ({"speaker_from": "folder", "speaker_pattern": "(a)"}, "exclude each other"),
        ({"audio_dir": None, "source": "folder:x", "speaker_from": "folder"}, "speaker_from=..."),
        (
            {"audio_dir": None, "source": "folder:x", "speaker_pattern": "(a)"},
            "speaker_pattern=...",
        ),
    ],
)
def test_flags_about_speakers_that_contradict_others(config, changes: dict, message) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(config, **changes)


@pytest.mark.parametrize("program", ["tokenize_corpus", "fit_tokenizers"])
def test_flags_of_the_programs(tmp_path, program: str) -> None:
    def run(*flags: str) -> str:
        call = [sys.executable, "-m", f"data_pipeline.{program}", f"--audio_dir={tmp_path}"]
        done = subprocess.run(
            [*call, f"--output={tmp_path / 'out'}", *flags], capture_output=True, text=True
        )
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    (tmp_path / "84").mkdir()
    for number in range(4):
        soundfile.write(tmp_path / "84" / f"a_{number}.wav", signal(0.2, number), RATE)
    said = run("--speaker_pattern=(a)", "--speaker_from=auto")
    assert said.startswith("error: --speaker_pattern and --speaker_from exclude each other")
    assert said.count("\n") == 1
    said = run("--speaker_from=folder", "--heldout_speakers=85,")
    assert "speakers: 1 found by the first folder below the audio folder: 84 (84/a_0)\n" in said
    assert "warning: one speaker, 84, for all 4 recordings" in said
    assert "error: heldout_speakers: no recordings of 85; the 1 known speakers" in said


CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"


@pytest.mark.skipif(not CASES.exists(), reason="needs the inputs that failed")
def test_inputs_that_failed(tmp_path) -> None:
    found = FolderSource(CASES / "speakers").list()[0]
    assert [item.speaker for item in found] == ["anna", "anna", "ben", "ben"]
    assert {item.speaker for item in FolderSource(CASES / "dates").list()[0]} == {"unknown"}
    utterances, failures = FolderSource(CASES / "nfd", CASES / "nfd" / "list.csv").list()
    assert ([item.text for item in utterances], failures) == (["six zero three"], [])
    # Three containers of one name: the first counts, the others are named.
    utterances, failures = FolderSource(CASES / "audio").list()
    assert (len(utterances), len(failures)) == (6, 2)
    shutil.copytree(CASES / "links", tmp_path / "links")
    link = tmp_path / "links" / "linked_folder"
    link.unlink(missing_ok=True)
    link.symlink_to(CASES / "speakers" / "anna")
    names = [item.id for item in FolderSource(tmp_path / "links").list()[0]]
    assert names == ["linked_folder/wavs/1", "linked_folder/wavs/2", "own"]
