"""The record of a checkpoint, which describes its run, and which run may resume from it.

The record is JSON: configuration, dataset, code version, data state, and the checksums of the
arrays beside it. It contains its own digest, so that a damaged record is detected.
"""

import dataclasses
import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

import gpst_jax
from data_pipeline.runtime.buckets import is_bucket
from gpst_jax.config import RunConfig

_DIGEST = "record_sha256"


class CheckpointError(Exception):
    """A checkpoint is missing, or belongs to another run."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint cannot be read, or differs from what was written."""


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record as plain JSON values, with a digest of them."""
    plain = json.loads(json.dumps(dict(record)))
    return plain | {_DIGEST: _digest(plain)}


def unseal(sealed: Mapping[str, Any] | None, path: Any) -> dict[str, Any]:
    """The record that was sealed.

    Args:
        sealed: the result of `seal`, read back from storage.
        path: named in the message.

    Raises:
        DamagedCheckpointError: the digest does not match.
    """
    record = dict(sealed or {})
    if record.pop(_DIGEST, None) != _digest(record):
        raise DamagedCheckpointError(f"{path}: its record is damaged")
    return record


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def describe_run(config: RunConfig, family: str, dataset: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a record that describes the run.

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
        "start_directory": os.getcwd(),
        "code_version": code_version(),
        "jax_version": jax.__version__,
    }


def locate_dataset(
    config: RunConfig, record: Mapping[str, Any], workdir: str | os.PathLike[str]
) -> RunConfig:
    """The configuration with `data.path` as it is found from the present directory.

    A relative path is looked for here, then below the directory that the run was started in, which
    older records do not name, then below the folders that hold the workdir. If it is nowhere, or
    absolute, it stays as it is.
    """
    path = Path(config.data.path)
    if not config.data.path or is_bucket(config.data.path):
        return config
    if path.is_absolute() or path.exists():
        return config
    start = record.get("start_directory")
    above = () if is_bucket(workdir) else Path(workdir).absolute().parents
    for folder in (*([Path(start)] if start else []), *above):
        if (folder / path).exists():
            data = dataclasses.replace(config.data, path=str(folder / path))
            return dataclasses.replace(config, data=data)
    return config


# What a packing plan is made of, beside the dataset.
_PLAN_FIELDS = (
    *("data.sequence_length", "data.frame_budget", "data.crop_seconds", "data.units"),
    *("data.deduplicate", "data.positions", "data.join_speakers", "data.seed", "model.pattern"),
)


def read_config(record: Mapping[str, Any]) -> RunConfig:
    """The configuration in the record of a checkpoint, of any version.

    Raises:
        ConfigError: it has a field that is not known.
    """
    return RunConfig.from_json(json.dumps(record["config"]))


def check_resume(saved: Mapping[str, Any], current: Mapping[str, Any], workdir: Any) -> list[str]:
    """Compares the record of a checkpoint with the run that resumes from it.

    Args:
        saved: the checkpoint's record: `describe_run` and `data`, the data state.
        current: the same of the new run.
        workdir: named in the message.

    Returns:
        Changes that are allowed, such as more steps, as readable lines.

    Raises:
        CheckpointError: the family, dataset, packing plan or a field that shapes the training state
            differs; the message names both values, those of the field where one changes the plan.
    """
    # Parsed and written again, so that records of former versions compare equal.
    old_fields, new_fields = (
        flatten(json.loads(read_config(record).to_json())) for record in (saved, current)
    )
    for name, old, new in (
        ("family", saved["family"], current["family"]),
        ("dataset fingerprint", saved["dataset_fingerprint"], current["dataset_fingerprint"]),
        ("packing plan", saved["data"]["plan"], current["data"]["plan"]),
    ):
        if old == new:
            continue
        if name == "packing plan":
            for field in _PLAN_FIELDS:
                if old_fields.get(field) != new_fields.get(field):
                    name = f"config field {field}"
                    old, new = old_fields.get(field), new_fields.get(field)
                    break
        raise _mismatch(workdir, name, old, new)
    changes = []
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


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by dotted name, such as `model.dropout`."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def code_version() -> str:
    """The package's version, with the git commit where the code is in a repository."""
    root = Path(__file__).resolve().parents[2]
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
