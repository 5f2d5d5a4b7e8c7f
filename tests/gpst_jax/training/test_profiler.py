"""Profiles of chosen steps."""

import jax.numpy as jnp
import pytest

from gpst_jax.config import ConfigError, parse_range
from gpst_jax.training.profiler import Profiler


def test_profile_of_the_steps_asked_for(tmp_path):
    profiler = Profiler(tmp_path, parse_range("profile_steps", "2:3"))
    for step in range(1, 6):
        profiler.before(step)
        jnp.ones(3).sum().block_until_ready()
        recording = list((tmp_path / "profile").rglob("*.xplane.pb"))
        assert bool(recording) == (step >= 4)  # written when step 4 begins
    profiler.close()


@pytest.mark.parametrize("text", ["", "3", "5:2", "a:b", "0:2"])
def test_steps_that_are_none(text):
    with pytest.raises(ConfigError, match=r"--profile_steps=.*FIRST:LAST"):
        parse_range("profile_steps", text)
