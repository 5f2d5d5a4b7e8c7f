"""Fixtures of stored models."""

from small_llama import saved  # noqa: F401
from stored_model import stored  # noqa: F401
