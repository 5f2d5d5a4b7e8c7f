"""Reads an exported directory, or the same model saved by torch, as a source of arrays.

Only safetensors are read; the tensors must be exactly those of the model in `config.json`.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors

from data_pipeline.datasets.dataset_json import SPEC_FILE
from data_pipeline.datasets.kinds import read_spec
from data_pipeline.runtime.errors import UserError
from gpst_jax.checkpoints.record import CheckpointError
from gpst_jax.config import ConfigError, RunConfig, from_dict
from gpst_jax.objectives import make_objective
from gpst_jax.parallel.sharding import path_string
from gpst_jax.weights.layouts import get_family
from gpst_jax.weights.shards import DTYPES, WEIGHTS_FILE
from gpst_jax.weights.sources import Description, Shapes, read_evaluation, row_groups
from gpst_jax.weights.tensors import Tensor

CONFIG_FILE = "config.json"
SECTION = "gpst_jax"  # of config.json: what this module reads back
VERSION = 1

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_NAMES = {code: dtype for code, dtype in DTYPES.values()}
_MAX_NAMES = 8  # in a message


class SafetensorsSource:
    """A directory written by `experiments.export` or by torch.

    Args:
        directory: with config.json, dataset.json, the tokenizers and the weights.

    Raises:
        UserError: a file is missing or invalid, or tensors are missing, unexpected, or of another
            shape or dtype; the message names them.
    """

    def __init__(self, directory: str | Path):
        self.files: Path | None = Path(directory)
        self._directory = Path(directory)
        refuse_pickles(self._directory)
        self.description = self._describe()
        objective = make_objective(
            self.description.config, self.description.spec(), self._directory
        )
        tree = jax.eval_shape(objective.init, jax.random.key(0))
        self._shapes: Shapes = {
            path_string(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)
        }
        family = get_family(self.description.config.model)
        self._tensors: dict[str, list[Tensor]] = {}
        for tensor in family.tensors(self._shapes):
            self._tensors.setdefault(tensor.path, []).append(tensor)
        self._files = TensorFiles(self._directory)
        expected = {t.name: t.shape for group in self._tensors.values() for t in group}
        self._files.check(expected)

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """Evaluation results stored beside the weights."""
        return read_evaluation(self._directory)

    def shapes(self) -> Shapes:
        """Every array by its path."""
        return self._shapes

    def stream(self, path: str, budget: int) -> Iterator[tuple[int, np.ndarray]]:
        """See `sources.Source`; raises CheckpointError for values that are not finite."""
        leaf, tensors = self._shapes[path], self._tensors[path]
        if tensors[0].layer is None:
            yield 0, self._read(tensors[0], leaf.dtype)
            return
        for first, stop in row_groups(leaf.shape, leaf.dtype.itemsize, budget):
            rows = np.empty((stop - first, *leaf.shape[1:]), leaf.dtype)
            for row, tensor in zip(rows, tensors[first:stop], strict=True):
                row[...] = self._read(tensor, leaf.dtype)
            yield first, rows

    def _read(self, tensor: Tensor, dtype: Any) -> np.ndarray:
        value = self._files.read(tensor.name)
        return (value.swapaxes(-1, -2) if tensor.transposed else value).astype(dtype)

    def _describe(self) -> Description:
        path = self._directory / CONFIG_FILE
        section = read_json(path).get(SECTION)
        if not isinstance(section, Mapping) or section.get("version") != VERSION:
            raise UserError(
                f'{path}: no section "{SECTION}" of version {VERSION}: it was not written by '
                "experiments.export"
            )
        if not (self._directory / SPEC_FILE).is_file():
            raise UserError(
                f"{self._directory / SPEC_FILE} is missing: copy it and the tokenizers from the "
                "directory that was exported"
            )
        spec = read_spec(self._directory)
        try:
            return Description(
                config=from_dict(RunConfig, section["run"]),
                dataset=json.loads(json.dumps(dataclasses.asdict(spec))),
                step=section["step"],
                family=section["family"],
                weights=section["weights"],
                code_version=section["code_version"],
                jax_version=section["jax_version"],
            )
        except (KeyError, ConfigError) as error:
            raise UserError(f"{path}: {SECTION}: {error}") from error


class TensorFiles:
    """The safetensors files of a directory as one set of tensors.

    Args:
        directory: of the files.
        name: of the file, if there is only one; otherwise `name.index.json` lists the shards.

    Raises:
        UserError: a file is missing or corrupt; the message names it.
    """

    def __init__(self, directory: Path, name: str = WEIGHTS_FILE):
        self._directory = directory
        self._stack = contextlib.ExitStack()
        index = directory / f"{name}.index.json"
        names = [name]
        if index.is_file():
            weight_map = read_json(index).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise UserError(f"{index}: no weight_map")
            names = sorted(set(weight_map.values()))
        self._where: dict[str, Any] = {}
        for name in names:
            for tensor, opened in self._open(name):
                if tensor in self._where:
                    raise UserError(f"{directory}: two files hold the tensor {tensor}")
                self._where[tensor] = opened

    @property
    def names(self) -> list[str]:
        """Names of all tensors."""
        return sorted(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return tuple(self._where[name].get_slice(name).get_shape())

    def check(self, expected: Mapping[str, Sequence[int]]) -> None:
        """Raises UserError unless exactly these tensors are there, of these shapes."""
        problems = []
        found = set(self._where)
        for kind, names in (
            ("missing", sorted(expected.keys() - found)),
            ("not of this model", sorted(found - expected.keys())),
        ):
            if names:
                problems.append(f"{kind}: {_some(names)}")
        for name in sorted(found & expected.keys()):
            code = self._where[name].get_slice(name).get_dtype()
            if self.shape(name) != tuple(expected[name]):
                problems.append(f"{name} is {self.shape(name)}, expected {tuple(expected[name])}")
            elif code not in _NAMES:
                problems.append(f"{name} is {code}, expected one of {', '.join(_NAMES)}")
        if problems:
            raise UserError(f"{self._directory}: tensors {_some(problems, '; ')}")

    def read(self, name: str) -> np.ndarray:
        """Reads a tensor in its stored dtype.

        Raises:
            CheckpointError: a value is NaN or infinite.
        """
        value = self._where[name].get_tensor(name)
        if not np.isfinite(value).all():
            raise CheckpointError(f"{self._directory}: tensor {name} holds NaN or infinity")
        return value

    def close(self) -> None:
        """Closes the files."""
        self._stack.close()

    def _open(self, name: str) -> Iterator[tuple[str, Any]]:
        path = self._directory / name
        if not path.is_file():
            raise UserError(f"{path} is missing")
        try:
            opened = self._stack.enter_context(safetensors.safe_open(path, "numpy"))
        except (safetensors.SafetensorError, OSError) as error:
            raise UserError(f"{path} is not an intact safetensors file: {error}") from error
        for tensor in opened.keys():  # noqa: SIM118  not a mapping
            yield tensor, opened


def refuse_pickles(path: Path) -> None:
    """Raises UserError for a pickle, and for a directory with pickles but no safetensors."""
    remedy = "pickles can execute code and are never loaded: save it with safe_serialization"
    if path.suffix in _PICKLES:
        raise UserError(f"{path}: {remedy}")
    if not path.is_dir():
        raise UserError(f"{path}: no such directory")
    names = sorted(entry.name for entry in path.iterdir())
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles and not any(name.endswith(".safetensors") for name in names):
        raise UserError(f"{path / pickles[0]}: {remedy}")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises UserError where it cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected an object")
    return value


def _some(names: Sequence[str], joint: str = ", ") -> str:
    more = len(names) - _MAX_NAMES
    return joint.join(names[:_MAX_NAMES]) + (f"{joint}and {more} more" if more > 0 else "")
