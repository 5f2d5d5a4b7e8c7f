"""The demo from end to end in its small form, on the real entry points."""

import json
import subprocess
import sys
from pathlib import Path

import programs
import pytest

MODES = ("unconditional", "semantic_to_acoustic", "speaker_transfer", "continuation", "tts")
TINY = [
    "--config.model.global_net.d_model=64",
    "--config.model.global_net.num_layers=1",
    "--config.model.global_net.d_ff=96",
    "--config.model.local_net.d_model=32",
    "--config.model.local_net.num_layers=1",
    "--config.model.local_net.d_ff=64",
    "--config.optimizer.name=adamw",
    "--config.train.preview_every=20",
]


TINY_LM = """
import dataclasses

from experiments.configs import gpst_demo_lm
from gpst_jax.config import TransformerConfig


def get_config():
    config = gpst_demo_lm.get_config()
    net = TransformerConfig(d_model=64, num_layers=1, num_heads=2, d_ff=96)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, net=net))
"""


def run_demo(workdir: Path, *flags: str) -> subprocess.CompletedProcess:
    workdir.mkdir(exist_ok=True)
    config = workdir.with_name(f"{workdir.name}_lm.py")
    config.write_text(TINY_LM)
    command = [sys.executable, "-m", "experiments.demo", "--smoke", f"--workdir={workdir}"]
    command.append(f"--lm_config={config}")
    return subprocess.run(
        [*command, *TINY, *flags],
        capture_output=True, text=True, timeout=900, env=programs.environment(),
    )  # fmt: skip


def run_program(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True, text=True, timeout=600, env=programs.environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("demo")
    done = run_demo(workdir)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return workdir


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_report_holds_every_mode_and_ceiling(demo):
    report = json.loads((demo / "report.json").read_text())
    assert set(MODES) <= set(report["modes"])
    assert {"recording", "codec", "recording_unseen", "codec_unseen"} <= set(report["ceilings"])
    for mode in MODES:
        wer = report["modes"][mode]["wer/pocketsphinx-digits-smoke"]
        assert wer["n"] > 0
        assert wer["ci95"][0] <= wer["value"] <= wer["ci95"][1]
    assert report["train"]["steps"] == 30
    assert len(report["train"]["final_nll_acoustic"]) == 4
    assert report["train"]["language_model"]["steps"] == 30
    steps = {"corpus", "tokenise", "pretrain", "generate", "evaluate"}
    assert set(report["timings_s"]) == steps | {"text tokenizer", "sequences", "language model"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_study_of_one_voice_compares_models_on_its_items(demo, tmp_path):
    file = tmp_path / "voice_small.py"
    file.write_text(
        "from experiments.study_files import voice\n\n"
        "def get_study():\n"
        "    return voice.make(recordings=16, seconds=10.0, steps=2)\n"
    )
    flags = [f"--study={file}", "--seeds=0", f"--run={demo / 'train'}"]
    flags += [f"--tokens={demo / 'tokens'}", f"--workdir={tmp_path / 'w'}"]
    run_program("experiments.study", *flags, f"--output={tmp_path / 'docs'}")
    prompt, tuned = (
        json.loads((tmp_path / f"docs/results/voice/{name}-0.json").read_text())["scores"]
        for name in ("prompt-alone", "fine-tuned")
    )
    assert 0 < prompt["words"]["n"] == tuned["words"]["n"] < 16
    difference = tuned["similarity"]["value"] - prompt["similarity"]["value"]
    assert f"{difference + 0.0:+.3f}" in (tmp_path / "docs" / "voice.md").read_text()
    corpus = tmp_path / "w/shared/recordings"
    tuning, heldout = (
        {line.split(",")[2] for line in (corpus / name).read_text().splitlines()}
        for name in ("voice.csv", "heldout.csv")
    )
    assert tuning & heldout == {"text"}  # the header


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_previews_of_the_training_run(demo):
    lines = [json.loads(line) for line in (demo / "train/metrics.jsonl").read_text().splitlines()]
    entropy = [
        line["preview/code_entropy_q0"] for line in lines if "preview/code_entropy_q0" in line
    ]
    assert len(entropy) == 1  # 30 steps, one every 20
    assert 0 <= entropy[0] <= 8  # bits of 256 codes
    (events,) = (demo / "train/tensorboard").iterdir()
    content = events.read_bytes()
    assert b"preview/0/spectrogram" in content
    assert b"audio/wav" in content


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_page_is_one_file_with_players(demo):
    page = (demo / "report.html").read_text()
    assert page.count("<audio") >= len(MODES)
    assert "data:audio/" in page
    assert 'src="http' not in page
    assert 'href="http' not in page


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_generation_from_a_run_on_a_mixture(demo, tmp_path):
    mixture = tmp_path / "mixture.json"
    mixture.write_text(json.dumps({"datasets": [{"path": str(demo / "tokens"), "weight": w}
                                                for w in (1, 2)]}))  # fmt: skip
    run_program(
        *("experiments.pretrain", "--config=experiments/configs/gpst_demo.py", *TINY),
        *(f"--workdir={tmp_path / 'run'}", f"--config.data.path={mixture}"),
        "--config.train.steps=2",
    )
    run_program(
        *("experiments.generate", f"--workdir={tmp_path / 'run'}"),
        *(f"--audio_dir={demo / 'corpus'}", f"--output={tmp_path / 'samples'}"),
        *("--mode=semantic_to_acoustic", "--items=2", "--unseen_items=0"),
    )
    assert len(list((tmp_path / "samples" / "semantic_to_acoustic").glob("*.wav"))) == 2


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_condition_without_samples_is_left_out(demo, tmp_path):
    """One voice alone in its split has no other voice to take a prompt from."""
    tokenizers = demo / "tokens" / "tokenizers"
    run_program(
        *("data_pipeline.tokenize_corpus", f"--audio_dir={demo / 'corpus'}"),
        *(f"--output={tmp_path / 'tokens'}", "--heldout_speakers=1"),
        *(f"--semantic={tokenizers / 'semantic'}", f"--codec={tokenizers / 'codec'}"),
    )
    printed = run_program(
        *("experiments.generate", f"--workdir={demo / 'train'}"),
        *(f"--dataset={tmp_path / 'tokens'}", f"--audio_dir={demo / 'corpus'}"),
        *(f"--output={tmp_path / 'samples'}", "--mode=speaker_transfer"),
        *("--items=2", "--unseen_items=2"),
    )
    assert "speaker_transfer_unseen: no items to render, skipped" in printed
    assert not (tmp_path / "samples" / "speaker_transfer_unseen").exists()
    run_program(
        *("experiments.evaluate", f"--samples={tmp_path / 'samples'}", "--mos_items=0"),
        f"--json_out={tmp_path / 'results.json'}",
    )
    modes = json.loads((tmp_path / "results.json").read_text())["modes"]
    assert modes.keys() == {"speaker_transfer"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_second_call_only_repeats_the_report(demo):
    """What is finished stays: nothing is trained, generated or measured again."""
    kept = [demo / "tokens/dataset.json", demo / "samples/codec/manifest.jsonl"]
    before = {path: path.stat().st_mtime_ns for path in kept}
    steps = sorted(path.name for path in (demo / "train/checkpoints").iterdir())
    done = run_demo(demo)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert sorted(path.name for path in (demo / "train/checkpoints").iterdir()) == steps


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_full_after_a_demo_without_it_makes_samples_of_its_own(demo):
    kept = demo / "samples/codec/manifest.jsonl"
    before = kept.read_text()
    assert _left_out(demo) == 1
    done = run_demo(demo, "--full")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert kept.read_text() == before
    assert (demo / "samples-full/codec/manifest.jsonl").exists()
    assert _left_out(demo) == 0


def _left_out(demo: Path) -> int:
    """Reasons of the report that name --full."""
    reasons = json.loads((demo / "report.json").read_text()).get("left_out", [])
    return sum("--full" in reason for reason in reasons)


def test_folder_without_audio_is_one_clear_line(tmp_path):
    done = run_demo(tmp_path / "run", "--source=folder")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: --audio_dir is missing")
    assert "Traceback" not in done.stderr
