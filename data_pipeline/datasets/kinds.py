"""Which kind of dataset a directory or a checkpoint is of, by the key `kind`; absent: tokens."""

from pathlib import Path
from typing import Any

from data_pipeline.datasets.dataset_json import SPEC_FILE, read_json
from data_pipeline.datasets.sequence_dataset import SEQUENCES, SequenceSpec
from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.runtime.errors import UserError

Spec = DatasetSpec | SequenceSpec

_KINDS: dict[str | None, type[Spec]] = {None: DatasetSpec, SEQUENCES: SequenceSpec}


def read_spec(dataset_dir: str | Path) -> Spec:
    """The spec of the dataset in a directory, whatever its kind.

    Raises:
        UserError: there is no dataset, or one that this code cannot read.
    """
    return parse_spec(read_json(dataset_dir), str(Path(dataset_dir) / SPEC_FILE))


def parse_spec(value: Any, where: str) -> Spec:
    """The spec from the parsed JSON of a file, or of a checkpoint; `where` names it.

    Raises:
        UserError: as `read_spec`.
    """
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind not in _KINDS:
        known = ", ".join(str(name) for name in _KINDS if name)
        raise UserError(f"{where}: unknown kind {kind!r}, there are {known}")
    return _KINDS[kind].parse(value, where)
