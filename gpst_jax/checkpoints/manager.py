"""Checkpoints: all that a run needs to resume exactly, and all that sampling from it needs.

A checkpoint is the directory `<workdir>/checkpoints/<step>`, where `step` counts finished steps. It
holds the parameters, their EMA where kept, the rest of the training state, and as JSON (Orbax's
custom metadata) the data state, the description of the run, and checksums of all arrays, against
which whatever is read is checked.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import v1 as ocp

from data_pipeline.runtime import buckets
from data_pipeline.runtime.buckets import BucketError
from gpst_jax.checkpoints import checksums, places, stored_arrays
from gpst_jax.checkpoints.record import (
    CheckpointError,
    DamagedCheckpointError,
    locate_dataset,
    read_config,
    seal,
    unseal,
)
from gpst_jax.checkpoints.storage import check_name, storage_error
from gpst_jax.config import ConfigError, RunConfig
from gpst_jax.parallel import multihost

CHECKPOINT_DIRECTORY, DAMAGED_DIRECTORY = "checkpoints", "damaged_checkpoints"
_POLICIES = ocp.training.preservation_policies


class Checkpoints:
    """The checkpoints of one run: asynchronous saves, restores onto any sharding.

    Args:
        workdir: directory of the run, or gs://BUCKET/NAME; created if missing.
        keep_latest: how many of the newest are kept.
        keep_every: multiples of this step are kept as well; 0: none.
        keep_best: how many with the smallest `best_metric` are kept as well; 0: none.
        best_metric: name of one of the metrics given to `save`.
        writable: whether this process saves; it then removes incomplete checkpoints of a killed
            run. A reader must not, as a live run may be writing them.

    Raises:
        UserError: checkpoints written under this name could not be read, see `storage.check_name`.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        keep_latest: int = 1,
        keep_every: int = 0,
        keep_best: int = 0,
        best_metric: str = "",
        *,
        writable: bool = True,
    ):
        if writable:
            check_name(workdir)
        # One more until the first checkpoint of this process has been read back.
        self._latest, self._keep_latest = _POLICIES.LatestN(keep_latest + 1), keep_latest
        policies: list[Any] = [self._latest]
        if keep_every:
            policies.append(_POLICIES.EveryNSteps(keep_every))
        if keep_best:
            best = _POLICIES.BestN(
                # The policy keeps the largest values.
                get_metric_fn=lambda metrics: -metrics[best_metric],
                n=keep_best,
                keep_checkpoints_without_metrics=False,
            )
            policies.append(best)
        self._best_metric = best_metric if keep_best else None
        self._directory = places.folder(workdir, CHECKPOINT_DIRECTORY)
        self._workdir = self._directory.parent
        with buckets.access(workdir):
            self._checkpointer = ocp.training.Checkpointer(
                self._directory,
                preservation_policy=_POLICIES.AnyPreservationPolicy(policies),
                cleanup_tmp_directories=writable,
            )
        self._pending: Any = None
        self._pending_step = 0

    @property
    def directory(self) -> Path:
        """The directory of the steps; in a bucket, of the same methods."""
        return self._directory

    @property
    def steps(self) -> list[int]:
        """The steps that can be restored, in increasing order."""
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

    def save(
        self,
        step: int,
        items: Mapping[str, Any],
        record: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts to save in the background; returns once the arrays may be overwritten.

        The first checkpoint of a process is completed and read back before anything relies on it.

        Args:
            step: finished steps.
            items: trees of jax arrays by name.
            record: JSON values; `read_record` returns them.
            metrics: of an evaluation at this very step, if there was one.

        Raises:
            ConfigError: the metrics do not hold `best_metric`.
            StorageError: the previous save failed, this one cannot begin, the directory of the run
                has vanished, or the first checkpoint is not what was written; it is then set aside.
        """
        self.wait()
        places.require(self._workdir)
        arrays = {name: checksums.describe(tree) for name, tree in items.items()}
        if metrics and self._best_metric and self._best_metric not in metrics:
            raise ConfigError(
                f"config field train.best_metric: {self._best_metric!r} is none of "
                f"{', '.join(sorted(metrics))}"
            )
        best = self._best_metric and (metrics or {}).get(self._best_metric)
        with self._saving(step), stored_arrays.storage():
            self._pending = self._checkpointer.save_checkpointables_async(
                step,
                dict(items),
                force=True,
                metrics=None if best is None else {self._best_metric: best},
                custom_metadata=seal(dict(record) | {"arrays": arrays}),
            )
        self._pending_step = step
        if self._latest.n != self._keep_latest:
            self.wait()
            try:
                self.read_back(step)
            except DamagedCheckpointError as error:
                aside = self.set_aside(step)
                reason = f"{error}, a moment after it was written (it is now {aside})"
                raise storage_error(self.directory, OSError(reason)) from error
            self._latest.n = self._keep_latest

    def check(self) -> None:
        """Raises the error of a background save that has failed; never blocks."""
        if self._pending is not None and not self._checkpointer.is_saving_in_progress():
            self.wait()

    def saved_at(self, step: int) -> float:
        """When a checkpoint was completed, in seconds since the epoch."""
        return buckets.modified(self.directory / str(step))

    def wait(self) -> None:
        """Blocks until the save in progress is complete; raises its error as StorageError."""
        pending, self._pending = self._pending, None
        if pending is not None:
            with self._saving(self._pending_step):
                pending.result()

    @contextmanager
    def _saving(self, step: int) -> Iterator[None]:
        try:
            yield
        # Orbax and TensorStore raise many kinds of errors; any of them means not saved.
        except Exception as error:
            raise storage_error(self.directory / str(step), error) from error

    def read_record(self, step: int) -> dict[str, Any]:
        """Returns the record given to `save`, with the shapes, dtypes and checksums of `arrays`.

        Raises:
            DamagedCheckpointError: it cannot be read, or differs from what was written.
        """
        with self._reading(step):
            sealed = self._checkpointer.checkpointables_metadata(step).custom_metadata
        return unseal(sealed, self.directory / str(step))

    def read_shapes(self, step: int, item: str) -> Any:
        """Returns an item as nested dicts, with a ShapeDtypeStruct at each leaf.

        Raises:
            CheckpointError: the checkpoint has no such item, or is damaged.
        """
        arrays = self.read_record(step)["arrays"].get(item)
        if arrays is None:
            raise CheckpointError(f"checkpoint {self.directory / str(step)} has no item {item!r}")
        tree: dict[str, Any] = {}
        for path, (shape, dtype, _) in arrays.items():
            *parents, name = path.split("/")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[name] = jax.ShapeDtypeStruct(tuple(shape), dtype)
        return tree

    def _descriptions(self, step: int, items: Iterable[str]) -> Mapping[str, Any]:
        """Shapes by item in Orbax's own files, which restoring to given shapes does not read."""
        with self._reading(step):
            found = self._checkpointer.checkpointables_metadata(step).metadata
            for item in items:
                if found[item] is None:  # Orbax only warns
                    raise ValueError(f"the description of {item!r} is damaged")
        return found

    def restore(
        self, step: int, abstract_items: Mapping[str, Any], *, described: bool = False
    ) -> dict[str, Any]:
        """Restores items to the shapes, dtypes and shardings given, whatever the saved ones.

        Args:
            step: one of `steps`.
            abstract_items: trees of ShapeDtypeStruct with shardings, by item name.
            described: the descriptions of all items must be intact too, which `verify` needs.

        Raises:
            DamagedCheckpointError: an array cannot be read, or differs from what was written;
                raised in all processes if it happens in one.
        """
        record, items, failure = None, {}, None
        try:
            record = self.read_record(step)
            if described:
                self._descriptions(step, record["arrays"])
            with self._reading(step):
                items = self._checkpointer.load_checkpointables(step, dict(abstract_items))
        except DamagedCheckpointError as error:
            failure = error
        (failed,) = multihost.any_process(failure is not None)
        if failed or record is None:
            path = self.directory / str(step)
            raise failure or DamagedCheckpointError(f"{path}: another process could not read it")
        for name, tree in items.items():
            expected = {path: array[2] for path, array in record["arrays"][name].items()}
            wrong = checksums.differences(expected, checksums.checksums(tree))
            if wrong:
                raise DamagedCheckpointError(
                    f"{self.directory / str(step)}: {len(wrong)} arrays of {name!r} differ from "
                    f"what was written, the first is {wrong[0]}"
                )
        return items

    @contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        try:
            with places.answering(self._workdir):
                yield
        except BucketError:
            raise  # an outage, not damage
        # What Orbax, TensorStore and JSON raise for missing or damaged files.
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise DamagedCheckpointError(
                f"{self.directory / str(step)} cannot be read: {reason}"
            ) from error

    def verify(self, step: int) -> None:
        """Reads every array of a checkpoint onto the first device and compares its checksum.

        Raises:
            DamagedCheckpointError: the checkpoint differs from what was written.
        """
        first = SingleDeviceSharding(jax.local_devices()[0])
        for item in self.read_record(step)["arrays"]:
            shapes = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=first),
                self._descriptions(step, (item,))[item],
            )
            self.restore(step, {item: shapes})

    def read_back(self, step: int) -> None:
        """Reads a finished checkpoint from its files: structure, and the checksum of every array.

        Needs no device and no memory to speak of. Each process reads a part of the arrays; all must
        call it.

        Raises:
            DamagedCheckpointError: it is not what was written; in every process, if so in one.
        """
        failure = None
        try:
            saved = self.read_record(step)["arrays"]
            metadata = self._descriptions(step, saved)
            with self._reading(step):
                for item, expected in saved.items():
                    path = self.directory / str(step) / item
                    stored_arrays.check_item(path, metadata[item], expected)
        except DamagedCheckpointError as error:
            failure = error
        (failed,) = multihost.any_process(failure is not None)
        if failed:
            path = self.directory / str(step)
            raise failure or DamagedCheckpointError(f"{path}: another process could not read it")

    def set_aside(self, step: int) -> Path:
        """Moves a damaged checkpoint to `damaged_checkpoints`; returns its new path.

        Nothing is deleted. Every process must call it; process 0 moves.
        """
        target = places.free_name(self._workdir / DAMAGED_DIRECTORY / str(step))
        if jax.process_index() == 0:
            places.move(self.directory / str(step), target)
        multihost.any_process(False)  # barrier: the others list the steps after the move
        self._checkpointer.reload()
        return target

    def close(self) -> None:
        """Waits for the save in progress, raises its error, and stops the threads."""
        try:
            self.wait()
        finally:
            with self._saving(self._pending_step):
                self._checkpointer.close()


class Loaded(NamedTuple):
    """A model read from a checkpoint, and its description."""

    params: Any  # nested dict of jax arrays
    config: RunConfig
    dataset: dict[str, Any]  # contents of dataset.json
    step: int
    family: str


def load_params(
    workdir: str | os.PathLike[str],
    step: int | None = None,
    *,
    average: bool = True,
    shardings: Callable[[Any], Any] | None = None,
) -> Loaded:
    """Reads a model for sampling or evaluation; needs nothing of the run but its directory.

    Args:
        workdir: directory of the run.
        step: which checkpoint; None is the newest.
        average: take the EMA of the parameters where one was kept.
        shardings: maps the tree of shapes to a tree of shardings, for instance
            `lambda shapes: parameter_shardings(mesh, shapes)`; None places all on the first device.

    Raises:
        CheckpointError: there is no checkpoint, or not this one; the message names the directory.
    """
    with reading(workdir, step) as (checkpoints, step):
        record = checkpoints.read_record(step)
        config = locate_dataset(read_config(record), record, workdir)
        item = "ema" if average and "ema" in record["arrays"] else "params"
        shapes = checkpoints.read_shapes(step, item)
        if shardings is None:
            first = SingleDeviceSharding(jax.local_devices()[0])
            target = jax.tree.map(lambda _: first, shapes)
        else:
            target = shardings(shapes)
        abstract = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            target,
        )
        params = checkpoints.restore(step, {item: abstract})[item]
    return Loaded(params, config, record["dataset"], step, record["family"])


@contextmanager
def reading(
    workdir: str | os.PathLike[str], step: int | None = None
) -> Iterator[tuple[Checkpoints, int]]:
    """Opens the checkpoints of a run read-only; yields them and the step (None: the newest).

    Raises:
        CheckpointError: there is no checkpoint, or not this one; the message names the directory.
    """
    directory = places.folder(workdir, CHECKPOINT_DIRECTORY)
    with buckets.access(workdir):
        there = directory.is_dir()
    if not there:
        raise CheckpointError(
            f"no checkpoints in {workdir}: is it the --workdir of a training run?"
        )
    checkpoints = Checkpoints(workdir, writable=False)
    try:
        steps = checkpoints.steps
        if not steps or (step is not None and step not in steps):
            wanted = "finished checkpoint" if step is None else f"checkpoint of step {step}"
            raise CheckpointError(f"no {wanted} in {directory}: it holds the steps {steps}")
        yield checkpoints, steps[-1] if step is None else step
    finally:
        checkpoints.close()
