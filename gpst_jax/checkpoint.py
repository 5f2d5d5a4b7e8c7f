"""Checkpoints: what a run needs to continue exactly, and all that sampling from it needs.

A checkpoint is the directory `<workdir>/checkpoints/<step>`, where `step` counts finished steps. It
holds the parameters, their average where one is kept, the rest of the training state, and as JSON
(Orbax's custom metadata) the data state and the description of the run: configuration, dataset,
code version.
"""

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import v1 as ocp

import gpst_jax
from gpst_jax.config import RunConfig

CHECKPOINT_DIRECTORY = "checkpoints"
_POLICIES = ocp.training.preservation_policies


class CheckpointError(Exception):
    """A checkpoint is missing, or does not belong to the run that asks for it."""


class Checkpoints:
    """The checkpoints of one run: asynchronous saves, restores onto any sharding.

    Args:
        workdir: directory of the run; made when missing.
        keep_latest: how many of the newest stay.
        keep_every: multiples of this step stay for good; 0 keeps none for good.
        writable: whether this process is the one that saves; it then clears away what a killed run
            left half written. A reader must not, for a live run may be writing it.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        keep_latest: int = 1,
        keep_every: int = 0,
        *,
        writable: bool = True,
    ):
        policies: list[Any] = [_POLICIES.LatestN(keep_latest)]
        if keep_every:
            policies.append(_POLICIES.EveryNSteps(keep_every))
        self._checkpointer = ocp.training.Checkpointer(
            (Path(workdir) / CHECKPOINT_DIRECTORY).absolute(),
            preservation_policy=_POLICIES.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=writable,
        )
        self._pending: Any = None

    @property
    def directory(self) -> Path:
        """Where the steps stand."""
        return Path(self._checkpointer.directory)

    @property
    def steps(self) -> list[int]:
        """The steps that can be restored, in increasing order."""
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

    def save(self, step: int, items: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Begins to save in the background; returns once the arrays may be overwritten.

        Args:
            step: finished steps.
            items: trees of jax arrays by name.
            record: anything JSON; comes back from `read_record`.

        Raises:
            Exception: what made the previous save fail.
        """
        self.wait()
        self._pending = self._checkpointer.save_checkpointables_async(
            step, dict(items), force=True, custom_metadata=dict(record)
        )

    def check(self) -> None:
        """Raises the error of a background save that has failed; never blocks."""
        if self._pending is not None and not self._checkpointer.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Blocks until the save in progress is complete; raises its error."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def read_record(self, step: int) -> dict[str, Any]:
        """Returns the record given to `save`."""
        return dict(self._checkpointer.checkpointables_metadata(step).custom_metadata)

    def read_shapes(self, step: int, item: str) -> Any:
        """Returns the tree of an item with a ShapeDtypeStruct, without sharding, at each leaf.

        Raises:
            CheckpointError: the checkpoint has no such item.
        """
        found = self._checkpointer.checkpointables_metadata(step).metadata
        if item not in found:
            raise CheckpointError(f"checkpoint {self.directory / str(step)} has no item {item!r}")
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), found[item])

    def restore(self, step: int, abstract_items: Mapping[str, Any]) -> dict[str, Any]:
        """Reads items onto the shapes, dtypes and shardings given; the saved ones do not matter.

        Args:
            step: one of `steps`.
            abstract_items: trees of ShapeDtypeStruct with shardings, by item name.
        """
        return self._checkpointer.load_checkpointables(step, dict(abstract_items))

    def close(self) -> None:
        """Waits for the save in progress, raises its error, and releases the threads."""
        try:
            self.wait()
        finally:
            self._checkpointer.close()


def describe_run(config: RunConfig, family: str, dataset: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says about its run.

    Args:
        config: the resolved configuration.
        family: class of the objective.
        dataset: the contents of dataset.json.
    """
    return {
        "config": json.loads(config.to_json()),
        "family": family,
        "dataset": dict(dataset),
        "dataset_fingerprint": dataset["fingerprint"],
        "code_version": code_version(),
        "jax_version": jax.__version__,
    }


def check_resume(saved: Mapping[str, Any], current: Mapping[str, Any], workdir: Any) -> list[str]:
    """Compares the record of a checkpoint with the run that wants to continue it.

    Args:
        saved: the checkpoint's record: `describe_run` and `data`, the loader's state.
        current: the same of the new run.
        workdir: named in the message.

    Returns:
        Changes that are allowed, such as more steps, as readable lines.

    Raises:
        CheckpointError: the family, dataset, packing plan or a field that shapes the training state
            differs; the message names both values.
    """
    for name, old, new in (
        ("family", saved["family"], current["family"]),
        ("dataset fingerprint", saved["dataset_fingerprint"], current["dataset_fingerprint"]),
        ("packing plan", saved["data"]["plan"], current["data"]["plan"]),
    ):
        if old != new:
            raise _mismatch(workdir, name, old, new)
    changes = []
    old_fields, new_fields = _flatten(saved["config"]), _flatten(current["config"])
    for name in sorted(old_fields.keys() | new_fields.keys()):
        old, new = old_fields.get(name), new_fields.get(name)
        if old == new:
            continue
        shapes_state = name.startswith("model.") or name == "optimizer.name"
        if shapes_state or (name == "train.ema_decay" and bool(old) != bool(new)):
            raise _mismatch(workdir, f"config field {name}", old, new)
        changes.append(f"{name}: {old!r} -> {new!r}")
    return changes


def _mismatch(workdir: Any, name: str, old: Any, new: Any) -> CheckpointError:
    return CheckpointError(
        f"cannot resume in {workdir}: its {name} is {old!r}, this run has {new!r}; "
        "use the same value or another --workdir"
    )


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


class Loaded(NamedTuple):
    """A model read from a checkpoint, with what describes it."""

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
        average: take the moving average of the parameters where one was kept.
        shardings: maps the tree of shapes to a tree of shardings, for instance
            `lambda shapes: parameter_shardings(mesh, shapes)`; None puts all on the first device.

    Raises:
        CheckpointError: there is no checkpoint, or not this one; the message names the directory.
    """
    directory = Path(workdir) / CHECKPOINT_DIRECTORY
    if not directory.is_dir():
        raise CheckpointError(
            f"no checkpoints in {workdir}: is it the --workdir of a training run?"
        )
    checkpoints = Checkpoints(workdir, writable=False)
    try:
        steps = checkpoints.steps
        if not steps or (step is not None and step not in steps):
            wanted = "finished checkpoint" if step is None else f"checkpoint of step {step}"
            raise CheckpointError(f"no {wanted} in {directory}: it holds the steps {steps}")
        step = steps[-1] if step is None else step
        record = checkpoints.read_record(step)
        config = RunConfig.from_json(json.dumps(record["config"]))
        item = "ema" if average and config.train.ema_decay > 0 else "params"
        shapes = checkpoints.read_shapes(step, item)
        if shardings is None:
            first = SingleDeviceSharding(jax.local_devices()[0])
            target = jax.tree.map(lambda _: first, shapes)
        else:
            target = shardings(shapes)
        abstract = jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
            shapes,
            target,
        )
        params = checkpoints.restore(step, {item: abstract})[item]
    finally:
        checkpoints.close()
    return Loaded(params, config, record["dataset"], step, record["family"])


def code_version() -> str:
    """The package's version, with the git commit where the code stands in a repository."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return gpst_jax.__version__
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return gpst_jax.__version__  # no git, or no commit yet
    return f"{gpst_jax.__version__}+{commit}"
