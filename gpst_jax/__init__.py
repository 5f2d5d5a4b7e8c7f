"""Pretraining of hierarchical speech language models in JAX."""

from gpst_jax.cpu_compiler import avoid_fusion

__version__ = "0.1.0"

avoid_fusion()
