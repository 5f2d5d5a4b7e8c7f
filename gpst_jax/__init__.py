"""Pretraining of hierarchical speech language models in JAX."""

__version__ = "0.1.0"
