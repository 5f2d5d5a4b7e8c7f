"""Joining short recordings: splits stay apart, transcripts follow, and runs resume."""

import csv
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.audio.io import load_audio, write_audio
from data_pipeline.join_recordings import SAMPLE_RATE, JoinConfig, join_recordings, plan_utterances
from data_pipeline.runtime.errors import UserError
from data_pipeline.sources import FolderSource

_WORDS = ("zero", "one", "two", "three")
_CONFIG = JoinConfig(
    utterances_per_speaker=12,
    valid_per_speaker=6,
    unseen_per_speaker=5,
    valid_fraction=0.25,
    heldout_speakers=("dora",),
)


def _recordings(folder: Path) -> FolderSource:
    """Four speakers, each with every word five times; the level tells the recording."""
    rows = []
    for speaker in ("ada", "ben", "cleo", "dora"):
        for number in range(20):
            name = f"{speaker}_{number:02d}.wav"
            level = (len(rows) + 1) / 100
            write_audio(folder / name, np.full(800 + 8 * number, level, np.float32), 8000)
            rows.append((name, speaker, _WORDS[number % 4]))
    table = folder / "table.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "speaker", "text"), *rows])
    return FolderSource(folder, table, language="en")


def _rows(output: Path) -> list[dict[str, str]]:
    with (output / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_no_recording_is_in_two_splits_and_all_are_used(tmp_path):
    source = _recordings(tmp_path / "words")
    planned = plan_utterances(source.list()[0], _CONFIG)
    used: dict[str, set[str]] = {}
    for joined in planned:
        assert len({recording.speaker for recording in joined.recordings}) == 1
        assert len(joined.pauses) == len(joined.recordings) - 1
        split = {recording.split for recording in joined.recordings}
        assert len(split) == 1
        used.setdefault(split.pop(), set()).update(r.id for r in joined.recordings)
    assert not used["train"] & used["valid"]
    assert all(name.startswith("dora") for name in used["unseen"])
    assert not any(name.startswith("dora") for name in used["train"] | used["valid"])
    # 12 utterances of at least 3 recordings deal 15 of training at least twice.
    assert len(used["train"] | used["valid"]) == 60


def test_audio_and_transcripts_are_joined_alike(tmp_path):
    source, output = _recordings(tmp_path / "words"), tmp_path / "strings"
    result = join_recordings(source, output, _CONFIG)
    assert result["utterances"] == {"train": 36, "valid": 18, "unseen": 5}
    planned = plan_utterances(source.list()[0], _CONFIG)
    for row, joined in zip(_rows(output), planned, strict=True):
        assert row["text"] == " ".join(str(r.text) for r in joined.recordings)
        assert row["split"] == joined.recordings[0].split
        assert row["language"] == "en"
        wav = load_audio(output / row["path"], SAMPLE_RATE)
        seconds = (
            sum(joined.pauses)
            + sum(len(load_audio(recording.path, SAMPLE_RATE)) for recording in joined.recordings)
            / SAMPLE_RATE
        )
        assert len(wav) / SAMPLE_RATE == pytest.approx(seconds, abs=0.005)


def test_an_interrupted_run_ends_with_the_same_files(tmp_path):
    source, whole, resumed = _recordings(tmp_path / "words"), tmp_path / "a", tmp_path / "b"
    for output in (whole, resumed):
        join_recordings(source, output, _CONFIG)
    for row in _rows(resumed)[::2]:
        (resumed / row["path"]).unlink()
    (resumed / "manifest.csv").unlink()
    join_recordings(source, resumed, _CONFIG)
    for row in _rows(whole):
        assert (resumed / row["path"]).read_bytes() == (whole / row["path"]).read_bytes()
    assert (resumed / "manifest.csv").read_bytes() == (whole / "manifest.csv").read_bytes()


def test_refusals_name_what_is_wrong(tmp_path):
    source = _recordings(tmp_path / "words")
    output = tmp_path / "strings"
    join_recordings(source, output, _CONFIG)
    with pytest.raises(UserError, match=r"differ in seed\): name another --output"):
        join_recordings(source, output, JoinConfig(**{**vars(_CONFIG), "seed": 1}))
    with pytest.raises(UserError, match="has no transcript"):
        plan_utterances(FolderSource(tmp_path / "words").list()[0], _CONFIG)
    with pytest.raises(UserError, match="--min_recordings=5 must be from 1"):
        JoinConfig(min_recordings=5, max_recordings=4)
    with pytest.raises(UserError, match=r"--max_pause=0\.1"):
        JoinConfig(min_pause=0.2, max_pause=0.1)
