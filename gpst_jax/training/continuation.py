"""Continuing another run: which checkpoint, what may change, and the history that remembers it.

A run that continues another begins in a workdir of its own with the parameters, the optimiser
state, the step, the random numbers and the data state of one checkpoint of the other. That is how
the decay of a warmup-stable-decay schedule branches off the stable phase, and how annealing on
another mixture begins.
"""

import dataclasses
import datetime
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data_pipeline.datasets.sequence_dataset import SEQUENCES, SequenceSpec
from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.runtime import buckets
from data_pipeline.runtime.errors import UserError
from gpst_jax.checkpoints.record import CheckpointError, flatten, read_config
from gpst_jax.trackers.base import RUN_ID_FILE

CONTINUED, NEW = "continued", "begun anew"

# What is learned and how it is computed, but not what the parameters mean.
_FREE_MODEL_FIELDS = {
    *("semantic_loss", "semantic_weight", "codebook_weights", "z_loss"),
    *("label_smoothing", "local_drop", "dropout", "guidance_drop"),
    *("max_prompt_seconds", "prompt_per_item", "dtype", "remat", "attention"),
}
_REASONS = {
    "optimizer.name": "its state is continued",
    "train.seed": "the state of its random numbers is continued",
    "train.init_from": "its parameters are continued",
    "data.positions": "the model has learned with these positions",
    "data.units": "the model has learned with units before the frames, or without",
    "data.deduplicate": "the model has learned with such units",
}
# They decide what a row holds: a row number means something else with other values.
_ROW_FIELDS = {"sequence_length", "frame_budget", "crop_seconds", "join_speakers", "seed"}


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint that a run continues from.

    Attributes:
        workdir: directory of the other run.
        step: of the checkpoint.
    """

    workdir: str
    step: int

    def __str__(self) -> str:
        """As it is written on the command line."""
        return f"{self.workdir}@{self.step}"

    def absolute(self) -> str:
        """The workdir, found from any directory."""
        bucket = buckets.is_bucket(self.workdir)
        return self.workdir if bucket else os.path.abspath(self.workdir)

    def run_id(self) -> str | None:
        """The id of the other run; None where its workdir is gone, or has none."""
        path = buckets.location(self.workdir) / RUN_ID_FILE
        with buckets.access(path):
            return path.read_text(encoding="utf-8").strip() if path.exists() else None


class Comparison(NamedTuple):
    """How a run differs from the one that it continues.

    Attributes:
        changes: fields with both values, as readable lines.
        keeps_data: whether the rows are the same, so that the data state is continued.
    """

    changes: list[str]
    keeps_data: bool


def parse_source(flag: str, text: str | None) -> Source | None:
    """Parses `RUN@STEP`; None is None.

    Raises:
        UserError: it is not of this form; the message names the flag.
    """
    if text is None:
        return None
    workdir, _, step = text.rpartition("@")
    if not workdir or not step.isdecimal():
        raise UserError(f"--{flag}={text}: give RUN@STEP, the workdir of a run and its checkpoint")
    return Source(workdir, int(step))


def compare(saved: Mapping[str, Any], current: Mapping[str, Any], source: Source) -> Comparison:
    """Compares the record of a checkpoint with the run that is to continue from it.

    Args:
        saved: the record: `record.describe_run` and `data`, the data state.
        current: the same of the new run, at its first row.
        source: named in messages.

    Raises:
        CheckpointError: a value differs that the state depends on; the message names it, its field
            where it has one, and both values.
    """
    for name, old, new in _contracts(saved, current):
        if old != new:
            raise _refusal(source, name, old, new, "the parameters belong to it")
    old_fields, new_fields = (flatten(read_config(r).to_dict()) for r in (saved, current))
    keeps_data = saved["data"]["plan"] == current["data"]["plan"]
    same_data = old_fields["data.path"] == new_fields["data.path"] and (
        saved["dataset_fingerprint"] == current["dataset_fingerprint"]
    )
    changes = []
    for name in sorted(old_fields.keys() | new_fields.keys()):
        old, new = old_fields.get(name), new_fields.get(name)
        if old == new:
            continue
        reason = _reason(name, old, new, same_data)
        if reason:
            raise _refusal(source, f"config field {name}", old, new, reason)
        changes.append(f"{name}: {old!r} -> {new!r}")
    if new_fields["train.steps"] <= source.step:
        raise CheckpointError(
            f"cannot continue from {source}: config field train.steps is "
            f"{new_fields['train.steps']}, which counts the steps from the beginning of the other "
            f"run: give more than {source.step}"
        )
    return Comparison(changes, keeps_data)


def _contracts(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Name and both values of what the dataset and the family fix."""
    datasets = [json.loads(json.dumps(record["dataset"])) for record in (saved, current)]
    kinds = [dataset.get("kind") for dataset in datasets]
    found = [("family", saved["family"], current["family"]), ("kind of dataset", *kinds)]
    spec = SequenceSpec if kinds[0] == SEQUENCES else DatasetSpec
    for name in spec.MODEL_FIELDS:
        old, new = (flatten({name: dataset.get(name)}) for dataset in datasets)
        for part in sorted(old.keys() | new.keys()):
            if not part.endswith(".path"):  # tokenizers may have moved
                found.append((f"dataset's {part}", old.get(part), new.get(part)))
    return found


def _reason(name: str, old: Any, new: Any, same_data: bool) -> str:
    """Why a field must stay as it is; empty where it may change."""
    section, _, field = name.partition(".")
    if section == "model" and field not in _FREE_MODEL_FIELDS and "loss_weight" not in field:
        return "it shapes the model"
    if name == "train.ema_decay" and bool(old) != bool(new):
        return "the moving average is continued, or there is none"
    if section == "data" and field in _ROW_FIELDS and same_data:
        return "the data state would be lost; it may change together with data.path"
    return _REASONS.get(name, "")


def _refusal(source: Source, name: str, old: Any, new: Any, reason: str) -> CheckpointError:
    return CheckpointError(
        f"cannot continue from {source}: its {name} is {old!r}, this run has {new!r}: {reason}"
    )


def history_with(
    saved: Mapping[str, Any], source: Source, found: Comparison
) -> list[dict[str, Any]]:
    """The history of a run that continues from a checkpoint, JSON: that of the other run and this.

    An entry has the other run's `workdir` (absolute), `run_id`, `name`, `code_version`, the `step`,
    the `time` (UTC), `data` (CONTINUED or NEW) and `changes`.
    """
    entry = {
        "workdir": source.absolute(),
        "run_id": source.run_id(),
        "name": saved["config"].get("name"),
        "step": source.step,
        "time": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "code_version": saved.get("code_version"),
        "data": CONTINUED if found.keeps_data else NEW,
        "changes": found.changes,
    }
    return [*saved.get("history", []), entry]


def check_history(history: Sequence[Mapping[str, Any]], source: Source, workdir: Any) -> None:
    """Refuses to resume a run that began elsewhere than at the given checkpoint.

    Raises:
        CheckpointError: the message names both.
    """
    last = history[-1] if history else None
    if last is None:
        began = "does not continue another run"
    else:
        same = last["workdir"] == source.absolute() or (
            last["run_id"] is not None and last["run_id"] == source.run_id()
        )
        if same and last["step"] == source.step:
            return
        began = f"continues {last['workdir']}@{last['step']}"
    raise CheckpointError(
        f"--continue_from={source}: {workdir} holds a run that {began}: leave the flag out to "
        "resume it, or give another --workdir"
    )


def describe_history(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """One readable line for each entry, the latest last."""
    return [
        f"continues {entry['workdir']}@{entry['step']} since {entry['time']}, data "
        f"{entry['data']}; {', '.join(entry['changes']) or 'nothing changed'}"
        for entry in history
    ]
