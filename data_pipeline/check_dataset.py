"""Checks that a dataset, or every dataset of a mixture, is readable, before a run is started.

    python -m data_pipeline.check_dataset DIR [--hash] [--json_out=FILE]

For every dataset: the spec and its fingerprint, the digest of each split's length index, that all
shards exist with a readable first and last record, and that the number of records is the spec's.
`--hash` also reads every byte and compares the shards' digests. Works for datasets of any kind and
size: two records are in memory at a time.

Exit codes: 0 readable; 2 not readable, the message names the file.
"""

import hashlib
from pathlib import Path
from typing import Any

from absl import flags
from array_record.python.array_record_module import ArrayRecordReader

from data_pipeline.datasets.dataset_json import SPEC_FILE, SplitSpec, index_path
from data_pipeline.datasets.kinds import read_spec
from data_pipeline.loading.mixture import read_mixture
from data_pipeline.runtime import cli
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import file_sha256, write_json

_REMEDY = "restore it from a copy or write the dataset again"


def check_dataset(path: str | Path, digests: bool = False) -> list[dict[str, Any]]:
    """Checks a dataset or a mixture.

    Args:
        path: directory of a dataset, or a mixture file.
        digests: also compare the digests of all shards.

    Returns:
        For every dataset its path, fingerprint, records, shards, hours and bytes of shards.

    Raises:
        UserError: a file is missing, unreadable, or not what `dataset.json` describes.
    """
    return [_check_one(Path(entry.path), digests) for entry in read_mixture(path)]


def _check_one(directory: Path, digests: bool) -> dict[str, Any]:
    spec = read_spec(directory)
    size = 0
    for name, split in spec.splits.items():
        index = index_path(directory, name)
        if not index.is_file():
            raise UserError(f"{index} is missing: {_REMEDY}")
        if file_sha256(index) != split.index_sha256:
            raise UserError(f"{index} is not the file that {SPEC_FILE} describes: {_REMEDY}")
        shards = _shards(directory, name, split)
        found = sum(_count_records(shard) for shard in shards)
        if found != split.num_records:
            raise UserError(
                f"{directory}: the shards of split {name} hold {found} records, {SPEC_FILE} "
                f"counts {split.num_records}: {_REMEDY}"
            )
        if digests:
            text = "\n".join(file_sha256(shard) for shard in shards)
            if hashlib.sha256(text.encode()).hexdigest() != split.shards_sha256:
                raise UserError(
                    f"{directory}: the shards of split {name} have changed since {SPEC_FILE} was "
                    f"written: {_REMEDY}"
                )
        size += sum(shard.stat().st_size for shard in shards)
    splits = spec.splits.values()
    return {
        "path": str(directory),
        "fingerprint": spec.fingerprint,
        "records": sum(split.num_records for split in splits),
        "shards": sum(split.num_shards for split in splits),
        "hours": round(sum(split.hours for split in splits), 6),
        "bytes": size,
    }


def _shards(directory: Path, name: str, split: SplitSpec) -> list[Path]:
    """The shard files of a split, in order."""
    ending = f"-of-{split.num_shards:05d}"
    shards = sorted(directory.glob(f"*-{name}.array_record-*{ending}"))
    numbers = [int(shard.name.removesuffix(ending).rsplit("-", 1)[1]) for shard in shards]
    missing = sorted(set(range(split.num_shards)) - set(numbers))
    if missing:
        raise UserError(
            f"{directory}: shard {missing[0]} of {split.num_shards} of split {name} is missing, "
            f"{len(missing)} in all: {_REMEDY}"
        )
    return shards


def _count_records(shard: Path) -> int:
    """Records of a shard, after reading the first and the last."""
    try:
        reader = ArrayRecordReader(str(shard))
        try:
            count = reader.num_records()
            if count:
                reader.read([0, count - 1])
        finally:
            reader.close()
    except (OSError, ValueError, RuntimeError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{shard} cannot be read ({reason}): {_REMEDY}") from error
    return int(count)


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    if len(argv) != 2:
        raise UserError("name one dataset: python -m data_pipeline.check_dataset DIR")
    found = check_dataset(argv[1], flags.FLAGS.hash)
    for dataset in found:
        print(
            f"{dataset['path']}: {dataset['records']:,} records, {dataset['hours']:,.2f} h, "
            f"{dataset['shards']:,} shards of {dataset['bytes'] / 2**20:,.1f} MiB, fingerprint "
            f"{dataset['fingerprint'][:12]}"
        )
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, {"datasets": found})
    return 0


if __name__ == "__main__":
    flags.DEFINE_bool("hash", False, "Also read every byte and compare the digests.")
    cli.run(main)
