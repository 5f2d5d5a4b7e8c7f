"""The demo of SpeechGPT-Gen from end to end in its small form, on the real entry points."""

import json
import subprocess
import sys
from pathlib import Path

import programs
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

STAGES = ("language model", "flow")
TINY = ["model.net.d_model=64", "model.net.num_layers=1", "model.net.d_ff=96"]
TINY += ["optimizer.name=adamw"]
CONFIG = """
from experiments.configs import {name}

def get_config():
    return {name}.get_config().override({tiny})
"""


def run_demo(workdir: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "experiments.demo_coig", "--smoke", f"--workdir={workdir}"]
    for stage in ("lm", "flow"):
        path = workdir / f"tiny_{stage}.py"
        path.write_text(CONFIG.format(name=f"coig_{stage}_demo", tiny=TINY))
        command.append(f"--{stage}_config={path}")
    return subprocess.run(
        command, capture_output=True, text=True, timeout=1200, env=programs.environment()
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("demo_coig")
    done = run_demo(workdir)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return workdir


def test_report_holds_every_task_with_its_question(demo):
    report = json.loads((demo / "report.json").read_text())
    modes = report["modes"]
    assert {"tts", "voice_conversion", "voice_conversion_unseen", "dialogue"} <= set(modes)
    for name in ("tts", "voice_conversion", "dialogue"):
        row = modes[name]["wer/pocketsphinx-digits-smoke"]
        assert row["n"] > 0
        assert row["ci95"][0] <= row["value"] <= row["ci95"][1]
    nearer = modes["voice_conversion"]["closer_to_target"]
    assert nearer["candidates"] > 0
    right = modes["dialogue"]["answers_correct"]
    assert 0 <= right["value"] <= 1
    assert right["n"] == modes["dialogue"]["wer/pocketsphinx-digits-smoke"]["n"]
    assert right["judge"] == "same-words"
    assert {"recording", "codec", "recording_unseen"} <= set(report["ceilings"])
    assert all(report["train"][stage]["steps"] == 30 for stage in STAGES)
    assert set(STAGES) <= set(report["timings_s"])


def test_read_aloud_is_in_a_voice_that_was_not_trained_on(demo):
    lines = (demo / "samples/tts/manifest.jsonl").read_text().splitlines()
    voices = {json.loads(line)["prompt_speaker"] for line in lines}
    assert voices <= {"klatt3", "f3"}


def test_study_of_the_chains_compares_them_on_the_same_items(demo, tmp_path):
    fields = [*TINY, "train.steps=2", "optimizer.warmup_steps=1"]
    study = tmp_path / "flow_small.py"
    study.write_text(
        "from experiments.study_files.coig import flow\n\n"
        "def get_study():\n"
        f"    return flow.make(('implicit', 'explicit'), (2,), 4, *{fields})\n"
    )
    command = [
        *(sys.executable, "-m", "experiments.study", f"--study={study}", "--seeds=0"),
        *(f"--tokens={demo / 'tokens'}", f"--audio_dir={demo / 'corpus'}"),
        *(f"--workdir={tmp_path / 'w'}", f"--output={tmp_path / 'docs'}"),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=programs.environment()
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    implicit, explicit = (
        json.loads((tmp_path / f"docs/results/coig/flow/{name}-0.json").read_text())["scores"]
        for name in ("implicit", "explicit")
    )
    for scores in (implicit, explicit):
        assert {"words_2", "closer_2", "similarity_2", "dnsmos_2", "words_cool"} <= set(scores)
    assert implicit["codec"] == explicit["codec"]
    text = (tmp_path / "docs" / "coig" / "flow.md").read_text()
    difference = explicit["words_2"]["value"] - implicit["words_2"]["value"]
    assert f"{100 * difference + 0.0:+.1f}" in text
    assert "explicit - implicit" in text


def test_page_shows_the_answers_and_loads_nothing(demo):
    page = (demo / "report.html").read_text()
    assert "Right answers" in page
    assert "Whose voice is it?" in page
    assert "http://" not in page
    assert 'src="data:' in page


def test_a_second_call_keeps_everything(demo):
    before = (demo / "samples/tts/manifest.jsonl").stat().st_mtime_ns
    done = run_demo(demo)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (demo / "samples/tts/manifest.jsonl").stat().st_mtime_ns == before
    assert "samples are there" in done.stdout
