"""What an evaluation says of likelihoods, and how often the model ended by itself."""

import dataclasses
import json
from pathlib import Path

import pytest
from stored_archive import unpack_with_recordings

from gpst_jax.samples.manifest import Sample, write_manifest
from gpst_jax.synthesis.models import open_model
from gpst_jax.tasks import likelihood


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    return unpack_with_recordings(tmp_path_factory.mktemp("stored"))


def test_two_renditions_of_the_same_units_end_once(tmp_path):
    samples = [
        Sample(id=f"{n}-{r}", audio=Path("a.wav"), speaker="", pair=str(n), ended_by=ending)
        for n, ending in enumerate(["end", "length", "end", "guard:silence"])
        for r in range(2)
    ]
    (tmp_path / "unconditional").mkdir()
    write_manifest(tmp_path / "unconditional", samples)
    (tmp_path / "continuation").mkdir()
    given = [dataclasses.replace(sample, pair=None, ended_by=None) for sample in samples]
    write_manifest(tmp_path / "continuation", given)
    rows = likelihood.ends(tmp_path, 100, 0)["termination"]
    assert set(rows) == {"unconditional"}  # elsewhere the units say how long
    row = rows["unconditional"]
    assert (row["value"], row["n"]) == (0.5, 4)
    assert row["endings"] == {"end": 2, "guard:silence": 1, "length": 1}


def test_a_family_without_likelihoods_is_a_line(stored, tmp_path):
    model = open_model(stored / "runs" / "soundstorm", dataset=stored / "tokens")
    found = likelihood.of_held_out(model, None, tmp_path, 2, 50, 0)
    assert found == {"left_out": ["likelihood: models of family 'soundstorm' give none"]}


def test_held_out_loss_and_listed_recordings(stored, tmp_path):
    tokens = str(stored / "tokens")
    model = open_model(stored / "runs" / "gpst", dataset=tokens)
    found = likelihood.of_held_out(model, tokens, tmp_path, 2, 50, 0)
    assert found["bits_per_second"]["value"] > 0
    assert found["likelihood"]["utterances"] == 2
    assert found["bits_per_second"].keys() >= {"value", "ci95", "n"}

    recordings = sorted((stored / "recordings").rglob("*.flac"))[:1]
    listed = tmp_path / "list.txt"
    listed.write_text(f"{recordings[0]}\n{tmp_path}/none.wav\n")
    run = str(stored / "runs" / "gpst")
    result = likelihood.score_recordings(run, None, tokens, str(listed), tmp_path)
    assert (result["recordings"], result["failed"]) == (2, 1)
    lines = (tmp_path / "scores.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert first["log_likelihood"] < 0
    assert second == {"path": f"{tmp_path}/none.wav", "failure": "no such file"}
