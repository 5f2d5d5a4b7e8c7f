"""Fixture of stored models."""

from stored_model import stored  # noqa: F401
