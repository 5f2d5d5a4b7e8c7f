"""Records of finished cells: one JSON file of each cell and seed, and what it was made with."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_text
from gpst_jax.checkpoints.record import flatten
from gpst_jax.config import ConfigError, RunConfig
from gpst_jax.studies.definition import INPUTS, Cell, Study

LARGEST = 50_000  # bytes of a record: it is kept in version control
VERSION = 1
# Fields of a configuration that say nothing about what is learned.
_UNRELATED = ("name", "data.path")
Load = Callable[[str], RunConfig]


def definition(cell: Cell, seed: int, load: Load) -> dict[str, Any]:
    """All that a cell's scores depend on, except its inputs: JSON values without any path.

    Args:
        cell: of a study.
        seed: of it.
        load: gives the configuration of a file.

    Raises:
        UserError: the configuration does not exist or has no such field.
    """
    config = None
    if cell.config:
        try:
            overrides = [text.format(seed=seed) for text in cell.seeded()]
            config = load(cell.config).override(overrides).to_dict()
        except ConfigError as error:
            raise UserError(f"cell {cell.name}: {error}") from error
    calls = {
        call.step: [call.program, *call.flags] for call in (*cell.prepare, *cell.calls)
    }  # the training is the configuration
    return {"seed": seed, "config": config, "calls": calls}


def config_hash(made_with: Mapping[str, Any]) -> str:
    """SHA-256 of a definition, which is the same on every machine."""
    text = json.dumps(_comparable(made_with), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _comparable(made_with: Mapping[str, Any]) -> dict[str, Any]:
    """The definition by dotted name; fields that are newer than it have their defaults."""
    config = made_with["config"]
    if config is not None:
        config = RunConfig.from_json(json.dumps(config)).to_dict()
    flat = flatten({**made_with, "config": config or {}})
    return {
        name: value
        for name, value in json.loads(json.dumps(flat)).items()
        if name.removeprefix("config.") not in _UNRELATED
    }


@dataclasses.dataclass(frozen=True)
class Results:
    """The records of one study.

    Args:
        root: the folder of pages, such as `docs/studies`.
        name: of the study.
    """

    root: Path
    name: str

    def path(self, cell: str, seed: int) -> Path:
        """The file of a cell's seed."""
        return self.root / "results" / self.name / f"{cell}-{seed}.json"

    def write(self, cell: str, seed: int, record: Mapping[str, Any]) -> Path:
        """Writes a record at once and whole.

        Raises:
            UserError: it is too large to be kept in version control.
        """
        text = json.dumps(record, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
        size = len(text.encode())
        if size > LARGEST:
            raise UserError(
                f"{self.path(cell, seed)}: {size} bytes, more than {LARGEST}: have fewer items "
                "scored, or fewer figures"
            )
        write_text(self.path(cell, seed), text)
        return self.path(cell, seed)

    def read(self, cell: str, seed: int) -> dict[str, Any] | None:
        """The record of a finished cell; None where it has not been run.

        Raises:
            UserError: the file is not readable as one.
        """
        path = self.path(cell, seed)
        if not path.exists():
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["version"] != VERSION:
                raise UserError(f"{path}: version {record['version']}, known is {VERSION}")
            return {name: record[name] for name in ("definition", "scores", "inputs", *record)}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: cannot be read: {error!r}; restore it, or remove it"
            ) from error

    def finished(self, study: Study, load: Load) -> dict[tuple[str, int], dict[str, Any]]:
        """The records of the study's cells and seeds that are there.

        Args:
            study: as its file defines it now.
            load: gives the configuration of a file.

        Raises:
            UserError: a record was made with another definition; the message names the first
                field that differs, and both values.
        """
        found = {}
        for cell in study.cells:
            for seed in study.seeds:
                record = self.read(cell.name, seed)
                if record is not None:
                    now = definition(cell, seed, load)
                    _check(self.path(cell.name, seed), record, now)
                    found[cell.name, seed] = record
        for record in found.values():
            self.check_inputs(found, record["inputs"])
        return found

    def check_inputs(
        self, found: Mapping[tuple[str, int], Mapping[str, Any]], inputs: Mapping[str, str]
    ) -> None:
        """Raises UserError where records were made with other inputs: they do not compare.

        Args:
            found: the records of a study.
            inputs: name -> fingerprint.
        """
        for (cell, seed), record in found.items():
            for name in INPUTS:
                old, new = record["inputs"].get(name), inputs.get(name)
                if old and new and old != new:
                    raise UserError(
                        f"--{name}: its fingerprint is {new[:16]}, but {self.path(cell, seed)} was "
                        f"made with {old[:16]}: give the same {name}, or another --output"
                    )


def _check(path: Path, record: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises UserError where a record is of another definition than that of now."""
    hashes = record.get("config_hash", ""), config_hash(now)
    if hashes[0] == hashes[1]:
        return
    try:
        old, new = _comparable(record["definition"]), _comparable(now)
    except ConfigError as error:
        raise UserError(f"{path}: its configuration cannot be read: {error}") from error
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            raise UserError(
                f"{path}: was made with another configuration ({hashes[0][:12]}, now "
                f"{hashes[1][:12]}): {name} was {old.get(name)!r} and is {new.get(name)!r}; "
                "undo the change, or remove the file to run the cell again"
            )
    # Equal but for fields that the record is older than: their defaults are what it was made with.
