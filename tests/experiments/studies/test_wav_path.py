"""The study of speech from files: the same items as those of the demo, compared one by one."""

import json
import subprocess
import sys
from pathlib import Path

import programs
import pytest
import soundfile
from stored_archive import unpack_with_recordings


def run(directory: Path, *command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=directory,  # stored runs name their data relative to it
        env=programs.environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """A directory `demo` with a run, two samples of it, and a corpus of one voice."""
    for package in ("pocketsphinx", "resemblyzer", "torch"):
        pytest.importorskip(package, reason="the extra eval is not installed")
    directory = unpack_with_recordings(tmp_path_factory.mktemp("stored"))
    demo = directory / "demo"
    demo.mkdir()
    (demo / "train").symlink_to(directory / "runs" / "gpst")
    flags = ["--workdir=demo/train", "--audio_dir=recordings", "--mode=semantic_to_acoustic"]
    flags += ["--items=2", "--unseen_items=0", "--output=demo/samples"]
    run(directory, "experiments.generate", *flags)
    return directory


def study(stored: Path, name: str, *flags: str) -> dict:
    run(stored, "experiments.studies.wav_path", "--demo=demo", f"--workdir={name}", *flags)
    return json.loads((stored / name / "study.json").read_text())


@pytest.mark.slow
def test_samples_are_made_again_from_files_and_compared_in_pairs(stored):
    found = study(stored, "short")
    made, base = found["semantic_to_acoustic_files_float32"], found["semantic_to_acoustic"]
    assert made["n"] == base["n"] == found["recording"]["n"] == 2
    difference = found["semantic_to_acoustic_files_float32 - semantic_to_acoustic"]
    for name in ("wer", "similarity"):
        expected = made[name]["value"] - base[name]["value"]
        assert difference[name]["value"] == pytest.approx(expected)
        assert difference[name]["n"] == 2
    folder = stored / "short" / "samples"
    for wav in (folder / "semantic_to_acoustic_files_float32").glob("*.wav"):
        (recording,) = (stored / "demo" / "samples" / "recording").glob(wav.name)
        seconds = soundfile.info(recording).duration
        assert soundfile.info(wav).duration == pytest.approx(seconds, abs=0.05)


@pytest.mark.slow
def test_recordings_are_joined_beyond_the_window(stored):
    manifest = (stored / "demo" / "samples" / "recording" / "manifest.jsonl").read_text()
    speakers = [json.loads(line)["speaker"] for line in manifest.splitlines()]
    corpus = stored / "demo" / "corpus"
    corpus.mkdir()
    rows = ["path,speaker,text,language,split,text_kind"]
    for number, speaker in enumerate(speakers * 3):
        audio = stored / "demo" / "samples" / "recording"
        path = sorted(audio.glob("*.wav"))[number % 2]
        rows.append(f"{path},{speaker},one two,en,valid,digits")
    (corpus / "manifest.csv").write_text("\n".join(rows) + "\n")
    found = study(stored, "long", "--seconds=3")
    name = "semantic_to_acoustic_files_float32"
    assert found[name]["n"] == found["recording"]["n"] >= 2
    assert found[f"{name}_last"]["wer"] is None
    made, joined = (stored / "long" / "samples" / one for one in (name, "recording"))
    for wav in made.glob("*.wav"):
        seconds = soundfile.info(joined / wav.name).duration
        assert seconds >= 3
        assert soundfile.info(wav).duration == pytest.approx(seconds, abs=0.05)
