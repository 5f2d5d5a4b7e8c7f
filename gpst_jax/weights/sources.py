"""Stored models as sources that are read array by array, without holding the model in memory.

A source is a run (or its exported parameters), the mean of several of its checkpoints, or a
directory of safetensors, see `safetensors_source`.
"""

import ctypes
import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from data_pipeline.datasets.cache import local_dataset
from data_pipeline.datasets.dataset_json import SPEC_FILE
from data_pipeline.datasets.kinds import Spec, parse_spec
from data_pipeline.loading.mixture import dataset_with
from data_pipeline.runtime.buckets import access, location
from data_pipeline.runtime.errors import UserError
from gpst_jax.checkpoints import checksums, stored_arrays
from gpst_jax.checkpoints.manager import reading
from gpst_jax.checkpoints.record import (
    CheckpointError,
    DamagedCheckpointError,
    locate_dataset,
    read_config,
)
from gpst_jax.checkpoints.stored_arrays import row_groups
from gpst_jax.config import RunConfig
from gpst_jax.models.lora import BASE
from gpst_jax.parallel.sharding import path_string

Shapes = dict[str, jax.ShapeDtypeStruct]

_MMAP_THRESHOLD = -3  # of mallopt
DATASET_DIRECTORY = "dataset"  # in an exported checkpoint: dataset.json and the tokenizers
EVALUATION_FILE = "evaluation.json"


@dataclasses.dataclass(frozen=True)
class Description:
    """Metadata of a stored model.

    Attributes:
        config: of the run that trained it.
        dataset: contents of dataset.json.
        step: completed steps.
        family: class name of the objective.
        weights: which arrays: `parameters`, `ema`, or `mean of steps ...`.
        code_version: of gpst_jax in training.
        jax_version: in training.
    """

    config: RunConfig
    dataset: dict[str, Any]
    step: int
    family: str
    weights: str
    code_version: str
    jax_version: str

    def spec(self) -> Spec:
        """The dataset's contract."""
        return parse_spec(self.dataset, "the model's dataset.json")

    def portable_config(self) -> RunConfig:
        """The config without the path of its data, which means nothing elsewhere."""
        data = dataclasses.replace(self.config.data, path="")
        return dataclasses.replace(self.config, data=data)


class Source(Protocol):
    """A model that is read array by array."""

    @property
    def description(self) -> Description:
        """Metadata of the model."""

    @property
    def files(self) -> Path | None:
        """Directory of dataset.json and the tokenizers it names; None where it is gone."""

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """Evaluation results stored with the model, if any."""

    def shapes(self) -> Shapes:
        """Every array by its path, in JAX's layout."""

    def stream(self, path: str, budget: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yields an array in chunks along its leading axis: (index of the first row, rows).

        A chunk has at most `budget` bytes, but at least one row. The checksum, where one is
        stored, is verified after the last chunk.

        Raises:
            CheckpointError: the array is corrupt; the message names it.
        """


def read_whole(source: Source, path: str, budget: int = 1 << 28) -> np.ndarray:
    """Reads a complete array in chunks of `budget` bytes."""
    leaf = source.shapes()[path]
    whole = np.empty(leaf.shape, leaf.dtype)
    for first, rows in source.stream(path, budget):
        if leaf.shape:
            whole[first : first + len(rows)] = rows
        else:
            whole[...] = rows
    return whole


class OrbaxSource:
    """A checkpoint of a run.

    Args:
        workdir: of the run, or of exported parameters.
        step: which checkpoint; None: the newest.
        average: take the EMA of the parameters where one was kept.

    Raises:
        CheckpointError: there is none, or it holds adapters.
    """

    def __init__(
        self, workdir: str | os.PathLike[str], step: int | None = None, *, average: bool = True
    ):
        self._workdir = location(workdir)
        with reading(workdir, step) as (checkpoints, step):
            record = checkpoints.read_record(step)
            self._directory = checkpoints.directory / str(step)
            config = locate_dataset(read_config(record), record, workdir)
            averaged = average and "ema" in record["arrays"]
            self._item = "ema" if averaged else "params"
            tree = checkpoints.read_shapes(step, self._item)
        self._sums = {path: array[2] for path, array in record["arrays"][self._item].items()}
        self._shapes = {path_string(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
        if any(path.startswith(f"{BASE}/") for path in self._shapes):
            raise CheckpointError(
                f"{self._directory} holds adapters and their base: use the merged model that "
                "experiments.finetune wrote next to it"
            )
        self.description = Description(
            config=config,
            dataset=record["dataset"],
            step=step,
            family=record["family"],
            weights=record.get("weights", "ema" if averaged else "parameters"),
            code_version=record["code_version"],
            jax_version=record["jax_version"],
        )
        self._context = stored_arrays.context()

    @property
    def checksums(self) -> dict[str, int]:
        """The recorded checksum of every array by its path."""
        return dict(self._sums)

    @property
    def files(self) -> Path | None:
        """Beside the checkpoints of an export, otherwise the run's dataset."""
        own = self._workdir / DATASET_DIRECTORY
        with access(own):
            there = (own / SPEC_FILE).is_file()
        if there:
            return Path(local_dataset(str(own)))
        try:
            return Path(dataset_with(self.description.config.data.path, "train", "valid", "unseen"))
        except UserError:
            return None

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """Evaluation results stored beside the checkpoints."""
        return read_evaluation(self._workdir)

    def shapes(self) -> Shapes:
        """Every array by its path."""
        return self._shapes

    def stream(self, path: str, budget: int) -> Iterator[tuple[int, np.ndarray]]:
        """See `Source`."""
        leaf = self._shapes[path]
        total = 0
        array = self._open(path)
        _release_memory()
        for first, stop in row_groups(leaf.shape or (1,), leaf.dtype.itemsize, budget):
            try:
                rows = (array[first:stop] if leaf.shape else array).read().result()
            except (ValueError, OSError) as error:
                raise self._damaged(path, str(error)) from error
            total += checksums.rows_checksum(rows, first)
            _release_memory()
            yield first, rows
        if total % 2**32 != self._sums[path]:
            raise self._damaged(path, "its checksum is not the recorded one")

    def _open(self, path: str) -> Any:
        try:
            return stored_arrays.open_array(self._directory / self._item, path, self._context)
        except ValueError as error:
            raise self._damaged(path, str(error)) from error

    def _damaged(self, path: str, reason: str) -> DamagedCheckpointError:
        short = (reason.splitlines() or [""])[0][:200]
        return DamagedCheckpointError(f"{self._directory}: {self._item} {path!r}: {short}")


class MeanSource:
    """The mean of several checkpoints of one run.

    Args:
        sources: with equal shapes; the metadata of the last one is kept.

    Raises:
        CheckpointError: their paths or shapes differ.
    """

    def __init__(self, sources: Sequence[Source]):
        self._sources = sources
        last = sources[-1]
        for source in sources:
            if source.shapes() != last.shapes():
                raise CheckpointError(
                    f"the checkpoints of steps {source.description.step} and "
                    f"{last.description.step} hold different arrays and cannot be averaged"
                )
        steps = ", ".join(str(source.description.step) for source in sources)
        weights = f"mean of steps {steps} ({last.description.weights})"
        self.description = dataclasses.replace(last.description, weights=weights)
        self.files, self.evaluation = last.files, None

    def shapes(self) -> Shapes:
        """Every array by its path."""
        return self._sources[-1].shapes()

    def stream(self, path: str, budget: int) -> Iterator[tuple[int, np.ndarray]]:
        """See `Source`; a running mean in the arrays' own dtype."""
        streams = [source.stream(path, budget // 2) for source in self._sources]
        for groups in zip(*streams, strict=True):
            first, mean = groups[0]
            mean = np.array(mean)
            for count, (_, rows) in enumerate(groups[1:], start=2):
                mean += (rows - mean) / mean.dtype.type(count)
            yield first, mean


def _release_memory() -> None:
    """Returns freed memory to the system: glibc keeps an arena for each reader thread."""
    libc: Any = ctypes.CDLL(None) if os.name == "posix" else None
    if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim"):
        libc.mallopt(_MMAP_THRESHOLD, 1 << 20)  # larger blocks are unmapped when they are freed
        libc.malloc_trim(0)


def read_evaluation(directory: Path) -> dict[str, Any] | None:
    """Evaluation results stored in a directory, or None."""
    path = directory / EVALUATION_FILE
    with access(path):
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
