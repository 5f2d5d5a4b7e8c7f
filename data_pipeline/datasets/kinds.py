"""Dispatch on the kind of a dataset: the key `kind` of its spec, absent for token datasets."""

from pathlib import Path
from typing import Any

from data_pipeline.datasets.dataset_json import SPEC_FILE, read_json
from data_pipeline.datasets.sequence_dataset import SEQUENCES, SequenceSpec
from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.runtime.errors import UserError

Spec = DatasetSpec | SequenceSpec

_KINDS: dict[str | None, type[Spec]] = {None: DatasetSpec, SEQUENCES: SequenceSpec}


def read_spec(dataset_dir: str | Path) -> Spec:
    """Reads the spec of the dataset in a directory, of any kind.

    Raises:
        UserError: there is no dataset, or this code cannot read it.
    """
    return parse_spec(read_json(dataset_dir), str(Path(dataset_dir) / SPEC_FILE))


def parse_spec(value: Any, where: str) -> Spec:
    """Builds the spec from parsed JSON; `where` names its file or checkpoint in messages.

    Raises:
        UserError: as `read_spec`.
    """
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind not in _KINDS:
        known = ", ".join(str(name) for name in _KINDS if name)
        raise UserError(f"{where}: unknown kind {kind!r}, choose from {known}")
    return _KINDS[kind].parse(value, where)
