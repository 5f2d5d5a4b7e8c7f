"""The flags of generation: those of one perceptual stage are refused with the other."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from stored_archive import unpack_with_recordings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    return unpack_with_recordings(tmp_path_factory.mktemp("stored"))


def run(directory: Path, family: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "experiments.generate", f"--workdir=runs/{family}"]
    return subprocess.run(
        [*command, "--audio_dir=recordings", "--output=samples", *arguments],
        cwd=directory,  # stored runs name their data relative to it
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_soundstorm_converts_voices_without_a_language_model(stored):
    settings = ["--soundstorm_steps=1", "--soundstorm_temperature=0"]
    sizes = ["--items=1", "--unseen_items=0", "--prompt_seconds=1"]
    done = run(stored, "soundstorm", *settings, *sizes)
    assert done.returncode == 0, done.stderr
    folder = stored / "samples" / "voice_conversion"
    assert "3 samples in samples" in done.stdout
    assert len((folder / "manifest.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("family", "flag"),
    [("soundstorm", "--guidance"), ("flow", "--soundstorm_steps")],
)
def test_flags_of_the_other_stage_are_refused_in_one_line(stored, family, flag):
    done = run(stored, family, f"{flag}=1")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {flag}: ")
    assert f"is of family '{family}'" in done.stderr
