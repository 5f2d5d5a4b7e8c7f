"""The flags of generation: those of one perceptual stage are refused with the other."""

import json
import subprocess
import sys
import time
from pathlib import Path

import programs
import pytest
import soundfile
from stored_archive import unpack_with_recordings


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    return unpack_with_recordings(tmp_path_factory.mktemp("stored"))


def run(directory: Path, family: str, *arguments: str) -> subprocess.CompletedProcess:
    return generate(directory, family, "--audio_dir=recordings", "--output=samples", *arguments)


def generate(directory: Path, family: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "experiments.generate", f"--workdir=runs/{family}"]
    return subprocess.run(
        [*command, *arguments],
        cwd=directory,  # stored runs name their data relative to it
        env=programs.environment(),
        capture_output=True,
        text=True,
        timeout=240,
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


WHAT, WHO = "recordings/audio/f5/valid_00000.flac", "recordings/audio/f2/valid_00000.flac"


def test_one_file_becomes_one_file_in_another_voice(stored):
    """As a stream: the file is complete, and what it is made of stands beside it."""
    done = generate(
        *(stored, "gpst", "--mode=speaker_transfer", f"--source={WHAT}", f"--prompt={WHO}"),
        *("--output=made/out.wav", "--prompt_seconds=1", "--noguards", "--stream"),
    )
    assert done.returncode == 0, done.stderr
    assert "1.00 of its 1.68 s are the prompt" in done.stdout
    assert "first audio after" in done.stdout
    (line,) = (stored / "made" / "out.json").read_text().splitlines()
    info = json.loads(line)
    assert (info["mode"], info["audio"], info["ended_by"]) == (
        "speaker_transfer", "out.wav", "length",
    )  # fmt: skip
    audio = soundfile.info(stored / "made" / "out.wav")
    assert audio.duration == pytest.approx(info["seconds"], abs=1e-3)
    assert audio.duration == pytest.approx(soundfile.info(stored / WHAT).duration, abs=0.03)


@pytest.mark.slow
def test_a_manifest_that_was_killed_goes_on(stored):
    """What was complete is neither made nor written again, and the rest is what it would be."""
    rows = [
        {"id": f"n{number}", "source": WHAT, "prompt": WHO, "seed": number} for number in (1, 2, 3)
    ]
    (stored / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--mode=speaker_transfer", "--manifest=many.jsonl", "--batch_size=1", "--noguards"]
    flags.append("--prompt_seconds=1")
    results = stored / "many" / "results.jsonl"
    command = [sys.executable, "-m", "experiments.generate", "--workdir=runs/gpst"]
    process = subprocess.Popen(
        [*command, *flags, "--output=many"],
        cwd=stored, env=programs.environment(), stdout=subprocess.DEVNULL,
    )  # fmt: skip
    while not results.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in (stored / "many").glob("n1.wav")}
    assert kept

    done = generate(stored, "gpst", *flags, "--output=many")
    assert done.returncode == 0, done.stderr
    assert " of 3 are there" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["id"] for line in lines] == ["n1", "n2", "n3"]
    whole = generate(stored, "gpst", *flags, "--output=whole")
    assert whole.returncode == 0, whole.stderr
    for row in rows:
        name = f"{row['id']}.wav"
        assert (stored / "many" / name).read_bytes() == (stored / "whole" / name).read_bytes()
