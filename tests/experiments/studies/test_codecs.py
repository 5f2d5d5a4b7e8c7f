"""The study of codecs: how it reads its list, and what its cells leave for their figures."""

import json
import subprocess
import sys

import numpy as np
import programs
import pytest
import soundfile

from data_pipeline.runtime.errors import UserError
from experiments.studies.files import load_study
from gpst_jax.studies.figures import ONLY, JsonFigure

PROGRAM = """
from data_pipeline.runtime.errors import UserError
from experiments.studies import codecs

print(codecs._parsed("world_rvq:8x1024"))
print(codecs._parsed("world_rvq:4x1024@100"))
for text in ("opus:8x1024", "world_rvq:8x", "world_rvq:8x1024@", "world_rvq:8x1024@fast"):
    try:
        codecs._parsed(text)
    except UserError as error:
        assert repr(text) in str(error) and "KIND:CODEBOOKSxCODES@FRAMES" in str(error), error
    else:
        raise AssertionError(text)
"""


def run(directory, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=directory, env=programs.environment(),
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_codec_has_a_kind_sizes_and_perhaps_a_frame_rate(tmp_path):
    assert run(tmp_path, "-c", PROGRAM).splitlines() == [
        "('world_rvq_8x1024', ('world_rvq', 8, 1024, ''))",
        "('world_rvq_4x1024_100hz', ('world_rvq', 4, 1024, '100'))",
    ]


@pytest.mark.slow
def test_cells_share_a_codec_and_leave_their_figures(tmp_path):
    for package in ("pocketsphinx", "resemblyzer", "torch"):
        pytest.importorskip(package, reason="the extra eval is not installed")
    time, random = np.arange(40_000) / 16_000, np.random.default_rng(0)
    for speaker in range(4):
        tone = 0.3 * np.sign(np.sin(2 * np.pi * (90 + 20 * speaker) * time))
        path = tmp_path / "recordings" / f"s{speaker}" / "one.wav"
        path.parent.mkdir(parents=True)
        soundfile.write(path, tone + 0.01 * random.standard_normal(len(time)), 16_000)
    figures = {
        figure.key: figure for figure in load_study("experiments/study_files/codecs.py").figures
    }
    flags = [
        "--audio_dir=recordings",
        "--speakers=2",
        "--shared=shared",
        "--wer=wer/pocketsphinx-digits-smoke",
    ]
    found = []
    for depth in (1, 2):
        flags_of_cell = ["--codecs=mel_rvq:2x4", f"--depths={depth}", f"--workdir=cell{depth}"]
        run(tmp_path, "-m", "experiments.studies.codecs", *flags, *flags_of_cell)
        cell = tmp_path / f"cell{depth}"
        assert figures["bits"].read(cell)["value"] == 100.0 * depth  # 2 bits at 50 Hz
        found.append(figures["similarity"].read(cell))
        assert not (cell / "codecs").exists()  # but in --shared
    first, second = (set(row["units"]["sums"]) for row in found)
    assert first == second  # of the same speakers, so that cells are compared in pairs
    assert found[0]["value"] != found[1]["value"]


def test_a_star_stands_for_one_name(tmp_path):
    (tmp_path / "f.json").write_text(json.dumps({"bits": {"a": 1.0}, "two": {"a": 1, "b": 2}}))
    assert JsonFigure("x", "x", "f.json", ("bits", ONLY)).read(tmp_path)["value"] == 1.0
    with pytest.raises(
        UserError, match=r"f.json: '\*' stands for one name, there are \['a', 'b'\]"
    ):
        JsonFigure("x", "x", "f.json", ("two", ONLY)).read(tmp_path)
