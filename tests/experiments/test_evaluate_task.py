"""A run is generated and scored by one command, which goes on and gives the same."""

import json
import subprocess
import sys

import numpy as np
import programs
import pytest
import soundfile
from stored_archive import unpack_with_recordings

RATE = 16_000


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    directory = unpack_with_recordings(tmp_path_factory.mktemp("stored"))
    random = np.random.default_rng(0)
    for speaker in ("p225", "p226"):
        for folder in ("wav48/" + speaker, "txt/" + speaker):
            (directory / "vctk" / folder).mkdir(parents=True)
        envelope = np.repeat(random.uniform(0.05, 0.3, 70), 800)
        name = f"{speaker}/{speaker}_025"
        wav = envelope * random.standard_normal(len(envelope))
        soundfile.write(directory / "vctk" / "wav48" / f"{name}.wav", wav, RATE)
        (directory / "vctk" / "txt" / f"{name}.txt").write_text("one two three\n")
    return directory


def evaluate(stored, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.evaluate", *arguments],
        cwd=stored,  # stored runs name their data relative to it
        env=programs.environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )


CHEAP = (
    "--wer=wer/pocketsphinx-digits-smoke", "--similarity_items=0", "--mos_items=0",
    "--resamples=50", "--processes=1", "--nll_items=2",
)  # fmt: skip


@pytest.mark.slow
def test_a_task_is_generated_and_scored_and_again_with_the_same_numbers(stored):
    for package in ("pocketsphinx", "jiwer"):
        pytest.importorskip(package)
    task = ("--workdir=runs/soundstorm", "--task=vctk-vc", "--corpus_dir=vctk")
    done = evaluate(stored, *task, *CHEAP)
    assert done.returncode in (0, 3), done.stderr
    output = stored / "runs" / "soundstorm" / "evaluation" / "vctk-vc"
    results = json.loads((output / "results.json").read_text())
    about = results["task"]
    assert (about["name"], about["items"]["count"]) == ("vctk-vc", 2)
    assert len(about["items"]["sha256"]) == 64
    assert about["models"]["step"] == 4
    assert "2401.13527" in about["source"]
    row = results["modes"]["voice_conversion"]["wer/pocketsphinx-digits-smoke"]
    assert (row["n"], row["words"]) == (2, 6)
    assert set(results["ceilings"]) == {"recording", "codec"}
    assert "en" in results["by_language"]["voice_conversion"]

    again = evaluate(stored, *task, *CHEAP)
    assert "2 samples are there" in again.stdout
    repeated = json.loads((output / "results.json").read_text())
    for changing in ("timings_s",):
        del results[changing], repeated[changing]
    assert repeated == results


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--samples=a", "--workdir=b"), "--workdir: generates samples, which --samples names"),
        (("--samples=a", "--task=demo"), "--task: is for --workdir"),
        ((), "--samples or --workdir: give the samples, or the run"),
    ],
)
def test_flags_that_exclude_each_other_are_one_line(stored, arguments, message):
    done = evaluate(stored, *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
