"""Where checkpoints are: a directory of this machine, or a folder of a bucket (`gs://`).

On a file system Orbax writes a checkpoint under a temporary name and renames it. In a bucket it
writes it in place, and `commit_success.txt` last: a folder without that file does not count, and is
removed by the next process that writes there.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_pipeline.runtime import buckets
from data_pipeline.runtime.buckets import Location
from data_pipeline.runtime.endings import one_line
from gpst_jax.checkpoints.storage import storage_error


def folder(workdir: Location, name: str) -> Any:
    """A folder of a run: an absolute `pathlib.Path`; in a bucket epath's, of the same methods."""
    path = buckets.location(workdir) / name
    return path if buckets.is_bucket(workdir) else path.absolute()


def require(workdir: Location) -> None:
    """Raises StorageError where the directory of a run has vanished; buckets have none."""
    if not buckets.is_bucket(workdir) and not Path(workdir).is_dir():
        raise storage_error(workdir, FileNotFoundError("the directory has vanished"))


def free_name(path: Any) -> Any:
    """The path itself, or with as many "-again" as it takes that nothing has this name."""
    with buckets.access(path):
        while path.exists():
            path = path.with_name(path.name + "-again")
    return path


def move(source: Any, target: Any) -> None:
    """Moves the folder of a checkpoint."""
    if buckets.is_bucket(source):
        buckets.move(source, target)
        return
    target.parent.mkdir(exist_ok=True)
    os.rename(source, target)


def kvstore(folder: Location) -> dict[str, str]:
    """The specification of TensorStore's store for a folder; its keys are file names in it."""
    if buckets.is_bucket(folder):
        bucket, name = buckets.bucket_and_name(folder)
        return {"driver": "gcs", "bucket": bucket, "path": f"{name}/"}
    # Not a URL, in which `?`, `#` and `%` would mean something.
    return {"driver": "file", "path": f"{Path(folder).absolute()}/"}


@contextmanager
def answering(folder: Location) -> Iterator[None]:
    """Turns an error in the body to a BucketError where the bucket of `folder` does not answer now.

    What cannot be read because of an outage must not be taken for damaged. Any other error about a
    bucket becomes an OSError: its libraries raise many kinds.
    """
    try:
        yield
    except Exception as error:
        if not buckets.is_bucket(folder):
            raise
        buckets.files(folder)
        raise OSError(one_line(error)) from error
