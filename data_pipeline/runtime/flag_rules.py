"""What flags may hold and which may be given together, checked before any work."""

import re

from absl import flags

from data_pipeline.runtime.buckets import bucket_and_name, is_bucket
from data_pipeline.runtime.errors import UserError

# Written by the programs that have them; all of these need files that can be locked and replaced.
_OUTPUTS = (
    "output",
    "workdir",
    "lm_workdir",
    "json_out",
    "items_out",
    "html_out",
    "hlo_out",
    "hlo_dir",
    "report",
    "cache_dir",
    "samples",
)
_REMOTE = re.compile(r"[A-Za-z][\w+.-]+:/")
_STORE = re.compile(r"(?:\w+:)?(?:gs|s3|az|abfss?|hdfs)://")  # perhaps after the kind of a source
_in_buckets: set[str] = set()


def may_be_in_buckets(*names: str) -> None:
    """Lets these flags of the program hold gs://BUCKET/NAME; called where they are defined."""
    _in_buckets.update(names)


def check_local(flag: str, path: str) -> None:
    """Raises UserError for an output in a bucket, except `may_be_in_buckets` of gs://."""
    if flag in _in_buckets and is_bucket(path):
        bucket_and_name(path)
    elif _REMOTE.match(path):
        raise UserError(
            f"--{flag}={path}: buckets are not written directly; mount the bucket on every host "
            "(gcsfuse, or a file system such as Filestore) and give the mounted path"
        )


def check_paths() -> None:
    """`check_local` of every output of the program; and its inputs in buckets, in the same way."""
    for name in _OUTPUTS:
        value = flags.FLAGS[name].value if name in flags.FLAGS else None
        if isinstance(value, str):
            check_local(name, value)
    for name in sorted(set(flags.FLAGS) - _in_buckets):
        value = flags.FLAGS[name].value
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and _STORE.match(text):
                raise UserError(
                    f"--{name}={text}: is not read from a bucket; copy it (gcloud storage cp -r), "
                    "or mount the bucket (gcsfuse), and give the local path"
                )


def given(*names: str) -> list[str]:
    """Those of the flags that the command line has."""
    return [name for name in names if flags.FLAGS[name].present]


def refuse(names: tuple[str, ...], reason: str) -> None:
    """Raises UserError if the command line has one of the flags; `reason` says what excludes it."""
    for name in given(*names):
        raise UserError(f"--{name}: {reason}")
