"""Test-wide settings: eight simulated devices, no silent rank promotion, one compilation cache."""

import os

import programs
import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
_FLAGS = ("--xla_force_host_platform_device_count=8", *programs.XLA_FLAGS.split())
_given = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = " ".join([_given, *(flag for flag in _FLAGS if flag not in _given)])
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis  # noqa: E402
import jax  # noqa: E402
from absl import flags  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_threefry_partitionable", True)
# The same examples in every run, however slow; `--hypothesis-profile=explore` draws new ones.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.register_profile(
    "explore", max_examples=2000, deadline=None, print_blob=True,
    suppress_health_check=list(hypothesis.HealthCheck),
)  # fmt: skip
hypothesis.settings.load_profile("repeatable")
if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # not a worker of pytest-xdist, which inherits it
        programs.open_cache()
        config.add_cleanup(programs.remove_cache)
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # which would order files by their number of tests
