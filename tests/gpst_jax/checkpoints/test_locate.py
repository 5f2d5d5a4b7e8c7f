"""Where a run's relative dataset is found from another directory."""

import dataclasses
import os

import pytest

from gpst_jax.checkpoints.record import describe_run, locate_dataset
from gpst_jax.config import DataConfig, GPSTConfig, RunConfig, TransformerConfig

NET = TransformerConfig(d_model=16, num_layers=1, num_heads=2, d_ff=16)
CONFIG = RunConfig("a", GPSTConfig(NET, NET), DataConfig(path="data/tokens"))


@pytest.fixture
def started(tmp_path, monkeypatch):
    """The directory that a run was started in, its record, and another directory to be in."""
    directory = tmp_path / "project"
    (directory / "data" / "tokens").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(directory)
    record = describe_run(CONFIG, "GPSTObjective", {"fingerprint": "0"})
    assert record["start_directory"] == os.fspath(directory)
    return directory, record, tmp_path / "elsewhere"


def test_here_first(started, monkeypatch):
    directory, record, elsewhere = started
    assert locate_dataset(CONFIG, record, directory / "run") == CONFIG
    (elsewhere / "data" / "tokens").mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    assert locate_dataset(CONFIG, record, directory / "run") == CONFIG


def test_where_the_run_was_started(started, monkeypatch):
    directory, record, elsewhere = started
    monkeypatch.chdir(elsewhere)
    found = locate_dataset(CONFIG, record, elsewhere / "run").data.path
    assert found == os.fspath(directory / "data/tokens")


def test_beside_the_workdir_of_older_runs_and_moved_projects(started, monkeypatch):
    directory, record, elsewhere = started
    monkeypatch.chdir(elsewhere)
    for known in ({}, record | {"start_directory": "/nowhere"}):
        found = locate_dataset(CONFIG, known, directory / "runs" / "1").data.path
        assert found == os.fspath(directory / "data/tokens")


def test_nothing_is_made_up(started, monkeypatch):
    _, _, elsewhere = started
    monkeypatch.chdir(elsewhere)
    assert locate_dataset(CONFIG, {}, elsewhere / "run") == CONFIG
    for path in ("", "/data/tokens"):
        config = dataclasses.replace(CONFIG, data=DataConfig(path=path))
        assert locate_dataset(config, {}, elsewhere / "run") == config
