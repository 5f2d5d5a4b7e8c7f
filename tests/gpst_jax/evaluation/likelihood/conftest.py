"""The tiny stored runs of GPST and of the language model, ready to score."""

import functools

import pytest
from stored_archive import unpack_with_recordings

from gpst_jax.evaluation.likelihood.scoring import open_scoring
from gpst_jax.synthesis.models import open_model


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """Directory of tokens, sequences, runs and recordings."""
    return unpack_with_recordings(tmp_path_factory.mktemp("stored"))


@pytest.fixture(scope="session")
def loaded(stored):
    """Function (name of a stored run) -> the model, opened once."""

    @functools.cache
    def make(name):
        dataset = "sequences" if name == "lm" else "tokens"
        return open_model(stored / "runs" / name, dataset=stored / dataset)

    return make


@pytest.fixture(scope="session")
def scorings(loaded):
    """Function (name of a stored run) -> `Scoring` without a cache, which keeps its programs."""

    @functools.cache
    def make(name):
        model = loaded(name)
        return open_scoring(model.loaded, model.directory)

    return make
