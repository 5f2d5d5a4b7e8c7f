"""What a number was measured with: a model run on single files, and the recipe around it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.runtime.contents import digest, file_digest, file_state
from gpst_jax.evaluation.metrics.optional_packages import require, versions


@dataclass(frozen=True)
class Outcome:
    """The value measured on one file, or why there is none."""

    value: Any = None
    failure: str | None = None

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return self.failure is None


@dataclass(frozen=True)
class Measurement:
    """What is computed from one audio file, shared by the recipes that use its value."""

    id: str
    version: int  # raise it when the value for the same file changes
    sample_rate: int  # Hz, files are resampled to it
    modules: tuple[tuple[str, str], ...]  # (import name, distribution) of the packages it needs
    load: Callable[[], Callable[[np.ndarray], Any]]  # the model; returns wav (N,) -> JSON value
    extra: str = "eval"
    directory_variable: str = ""  # environment variable that names a local directory of weights

    def check(self) -> None:
        """Raises UserError when a package is missing."""
        require(self.id, dict(self.modules), self.extra)

    def key(self) -> str:
        """Cache key: values of equal id, version, packages and weights are interchangeable.

        Local weights count by what their files hold, wherever they are.
        """
        installed = versions(dict(self.modules))
        packages = ",".join(f"{name}={version}" for name, version in sorted(installed.items()))
        return f"{self.id};v{self.version};{packages};{_contents(self.weights())}"

    def weights(self) -> str | None:
        """The local directory used instead of the published weights, if one is named."""
        return os.environ.get(self.directory_variable) if self.directory_variable else None

    def describe_weights(self) -> dict[str, Any]:
        """What the result says about the weights, as JSON values."""
        return {"weights": self.weights()}


def _contents(directory: str | None) -> str:
    """A digest of the files in a directory of weights; empty without one."""
    if not directory or not Path(directory).is_dir():
        return directory or ""
    files = sorted(path for path in Path(directory).iterdir() if path.is_file())
    return digest(
        "".join(f"{p.name} {file_digest(str(p), file_state(p))}\n" for p in files).encode()
    )


@dataclass(frozen=True)
class Recipe:
    """Model, conventions and aggregation of a metric, fixed under one id.

    A number without its recipe cannot be compared with any other, so results are keyed by recipe
    id and a bare "WER" is never printed. Recipes with "smoke" in their name run from pip packages
    alone, with models too weak for published numbers: they compare conditions of one experiment.
    """

    id: str
    kind: str  # of the metric that it belongs to
    model: str
    normalisation: str
    aggregation: str
    measurement: Measurement

    def describe(self) -> dict[str, Any]:
        """The recipe as a JSON value, with the installed package versions."""
        return {
            "kind": self.kind,
            "model": self.model,
            "version": self.measurement.version,
            "sample_rate": self.measurement.sample_rate,
            "normalisation": self.normalisation,
            "aggregation": self.aggregation,
            "packages": versions(dict(self.measurement.modules)),
            **self.measurement.describe_weights(),
        }
