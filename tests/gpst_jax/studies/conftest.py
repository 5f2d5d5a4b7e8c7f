"""The fixtures of a toy study."""

from toy_study import records, study  # noqa: F401
