"""Shared by studies that make samples again from files: conditions whose audio may be anywhere."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpst_jax.samples.manifest import Sample, write_manifest


def moved(samples: Sequence[Sample], made: Path) -> list[Sample]:
    """The samples whose audio is `made/ID.wav`, there already or not; references and texts stay."""
    root = made.resolve()
    return [dataclasses.replace(one, audio=root / f"{one.id}.wav") for one in samples]


def write_condition(directory: Path, samples: Sequence[Sample]) -> None:
    """Writes the manifest of samples with absolute paths into a directory."""
    root = directory.resolve()
    write_manifest(directory, [_relative(sample, root) for sample in samples])


def _relative(sample: Sample, root: Path) -> Sample:
    """The sample with paths relative to a directory."""
    paths: dict[str, Any] = {
        field.name: Path(os.path.relpath(path, root))
        for field in dataclasses.fields(sample)
        if isinstance(path := getattr(sample, field.name), Path)
    }
    return dataclasses.replace(sample, **paths)
