"""A bucket on this machine."""

from bucket_server import bucket, folder  # noqa: F401
