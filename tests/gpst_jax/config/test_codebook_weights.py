"""Schemes of codebook weights, and the fields of the loss."""

import numpy as np
import pytest

from gpst_jax.config import ConfigError, GPSTConfig, SemanticLMConfig, TransformerConfig
from gpst_jax.config.codebook_weights import codebook_weights
from gpst_jax.config.field_help import describe

NET = TransformerConfig(32, 2, 4, 48)


@pytest.mark.parametrize(
    ("scheme", "numbers"),
    [
        ("geometric:0.5", "8,4,2,1"),
        ("geometric:1", "1,1,1,1"),
        ("moshi", "100,1,1,1"),
        ("3,0,0.5,0.5", "6,0,1,1"),
    ],
)
def test_a_scheme_is_its_numbers_and_their_mean_is_one(scheme, numbers):
    found = codebook_weights(scheme, 4)
    np.testing.assert_allclose(found, codebook_weights(numbers, 4))
    assert np.mean(found) == pytest.approx(1.0)
    given = np.array([float(number) for number in numbers.split(",")])
    np.testing.assert_allclose(found, given / given.mean())


def test_uniform_has_no_numbers():
    assert codebook_weights("uniform", 4) is None


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ("1,2", "has 2 weights, the dataset has 3 codebooks"),
        ("1,-1,1", "has a negative weight"),
        ("0,0,0", "has no weight above 0"),
        ("1,nan,1", "no scheme of weights; write uniform, geometric:RATIO"),
        ("1,,1", "no scheme of weights"),
        ("geometric", "no scheme of weights"),
        ("geometric:0", "must be from 0.01 to 100"),
        ("mimi", "no scheme of weights"),
    ],
)
def test_other_schemes_are_refused(scheme, message):
    with pytest.raises(ConfigError, match=f"codebook_weights: .*{message}"):
        codebook_weights(scheme, 3)


@pytest.mark.parametrize(
    "field", [{"semantic_weight": -1.0}, {"z_loss": -1e-4}, {"codebook_weights": "0,0"}]
)
def test_the_configuration_refuses_what_no_dataset_could_fit(field):
    with pytest.raises(ConfigError, match=next(iter(field))):
        GPSTConfig(NET, NET, **field)
    if "z_loss" in field:
        with pytest.raises(ConfigError, match="z_loss"):
            SemanticLMConfig(NET, **field)


def test_the_help_says_what_may_be_written():
    lines = {line.partition("=")[0]: line for line in describe(GPSTConfig).splitlines()}
    assert "(float, default 1.0): of the mean loss over units" in lines["--config.semantic_weight"]
    assert "geometric:RATIO, moshi (100 for the first" in lines["--config.codebook_weights"]
    assert "coefficient of (log Z)^2" in lines["--config.z_loss"]
