import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipeline.runtime import exit_codes

ROOT = Path(__file__).resolve().parents[2]


def _run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.evaluate", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_user_errors_are_one_line_without_a_traceback(tmp_path):
    done = _run(f"--samples={tmp_path}/none")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert "none" in done.stderr


def test_a_directory_of_samples_becomes_numbers_and_a_page(tmp_path):
    for package in ("pocketsphinx", "jiwer", "resemblyzer", "speechmos", "matplotlib", "librosa"):
        pytest.importorskip(package)
    rng = np.random.default_rng(0)
    folder = tmp_path / "codec"
    folder.mkdir()
    rows = []
    for i in range(2):
        soundfile.write(folder / f"{i}.wav", 0.1 * rng.standard_normal(8000), 16000)
        text = "one two three" if i else "four five six"
        row = {"id": f"u{i}", "audio": f"{i}.wav", "text": text, "text_kind": "digits"}
        rows.append(row | {"speaker": "s"})
    rows.append(rows[0] | {"id": "gone", "audio": "gone.wav"})
    lines = "\n".join(json.dumps(row) for row in rows)
    (folder / "manifest.jsonl").write_text(lines, encoding="utf-8")
    done = _run(
        f"--samples={tmp_path}",
        f"--json_out={tmp_path}/out/report.json",
        f"--items_out={tmp_path}/out/items.jsonl",
        f"--report={tmp_path}/out/report.html",
        "--wer=wer/pocketsphinx-digits-smoke",
        "--similarity_items=0",
        "--mos_items=0",
        "--resamples=100",
    )
    assert done.returncode == exit_codes.PARTIAL, done.stderr  # one sample has no audio
    results = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    row = results["ceilings"]["codec"]["wer/pocketsphinx-digits-smoke"]
    assert (row["n"], row["failed"], row["words"]) == (3, 1, 9)
    assert row["value"] > 0.5  # noise holds no digits
    items = (tmp_path / "out" / "items.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(item)["id"] for item in items] == ["u0", "u1", "gone"]
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000
    assert "wer/pocketsphinx" in done.stdout


def test_a_recipe_that_is_none_is_one_line(tmp_path):
    done = _run(f"--samples={tmp_path}", "--wer=wer/pocketsphinx-digits-smoke,wer/whisper-huge")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no recipe 'wer/whisper-huge'" in done.stderr


def test_what_is_left_out_is_said(tmp_path, monkeypatch):
    pytest.importorskip("pocketsphinx")
    folder = tmp_path / "codec"
    folder.mkdir()
    soundfile.write(folder / "a.wav", np.zeros(8000), 16000)
    row = {"id": "a", "audio": "a.wav", "text": "a sentence", "speaker": "s"}
    (folder / "manifest.jsonl").write_text(json.dumps(row), encoding="utf-8")
    monkeypatch.setenv("GPST_WHISPER", str(tmp_path))  # holds no model
    settings = ("--similarity_items=0", "--mos_items=0", "--resamples=20")
    done = _run(f"--samples={tmp_path}", f"--json_out={tmp_path}/r.json", *settings)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert results["settings"]["wer"] == ["wer/pocketsphinx-digits-smoke"]
    (line,) = results["left_out"]
    assert "by Whisper" in line
    assert "by Whisper" in done.stdout
