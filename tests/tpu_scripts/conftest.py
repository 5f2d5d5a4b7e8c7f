"""The fixtures of small runs."""

from small_run import config, dataset, environment, start  # noqa: F401
