"""Stored models of both blocks, both heads and several depths, made once each."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
from stored_model import make_config, make_dataset, random_params, save_run

from data_pipeline.datasets.token_dataset import DatasetSpec
from gpst_jax.config import RunConfig


@dataclasses.dataclass(frozen=True)
class Stored:
    """A model in memory and where it is stored."""

    workdir: Path
    config: RunConfig
    spec: DatasetSpec
    params: Any


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """Function (block, shared head, codebooks) -> a run with one checkpoint."""

    @functools.cache
    def make(block: str = "modern", shared: bool = False, codebooks: int = 8) -> Stored:
        directory = tmp_path_factory.mktemp("stored")
        spec = make_dataset(directory / "dataset", codebooks)
        config = make_config(directory / "dataset", block, shared)
        params = random_params(config, spec)
        save_run(directory / "run", config, spec, {4: {"params": params}})
        return Stored(directory / "run", config, spec, params)

    return make
