"""Loads study files: those of `experiments/study_files`, or a user's own."""

import importlib.util
from pathlib import Path

from data_pipeline.runtime.errors import UserError
from gpst_jax.studies.definition import Study

_ROOT = Path(__file__).resolve().parents[2]


def load_study(name: str) -> Study:
    """The study that a file's `get_study()` returns.

    Raises:
        UserError: there is no such file, or it defines none.
    """
    # Those of this project are found from any directory.
    path = next((p for p in (Path(name), _ROOT / name) if p.is_file()), None)
    if path is None:
        raise UserError(f"--study={name}: no such file")
    spec = importlib.util.spec_from_file_location("study_file", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--study={name}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    study = module.get_study() if hasattr(module, "get_study") else None
    if not isinstance(study, Study):
        raise UserError(f"--study={name}: needs a function get_study() -> Study")
    return study


def shown(name: str) -> str:
    """The file as pages name it: relative to this project where it is part of it."""
    path = Path(name)
    path = path.resolve() if path.is_file() else _ROOT / name
    return path.relative_to(_ROOT).as_posix() if path.is_relative_to(_ROOT) else path.name
