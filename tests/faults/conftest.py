"""The fixtures of small runs."""

from bucket_server import bucket, folder  # noqa: F401
from small_run import config, dataset, environment, start  # noqa: F401
