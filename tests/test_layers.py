"""Imports point downward: no folder imports one above it, and no two import each other."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("data_pipeline", "gpst_jax", "experiments")
# From the ground: a folder may import what stands before it. `data_pipeline` itself holds commands,
# `experiments` the programs; both stand on everything of their layer.
ORDER = [
    "data_pipeline/runtime",
    "data_pipeline/tokens",
    "data_pipeline/audio",
    "data_pipeline/datasets",
    "data_pipeline/tokenizers",
    "data_pipeline/sources",
    "data_pipeline/sequences",
    "data_pipeline/fitting",
    "data_pipeline/tokenization",
    "data_pipeline/packing",
    "data_pipeline/loading",
    "data_pipeline/inspection",
    "data_pipeline/synthetic",
    "data_pipeline",
    "gpst_jax",
    "gpst_jax/config",
    "gpst_jax/parallel",
    "gpst_jax/checkpoints",
    "gpst_jax/models",
    "gpst_jax/generation",
    "gpst_jax/objectives",
    "gpst_jax/samples",
    "gpst_jax/evaluation",
    "gpst_jax/weights",
    "gpst_jax/synthesis",
    "gpst_jax/tasks",
    "gpst_jax/serving",
    "gpst_jax/trackers",
    "gpst_jax/training",
    "gpst_jax/warm_start",
    "gpst_jax/compilation",
    "gpst_jax/hf",
    "gpst_jax/parity",
    "gpst_jax/benchmarks",
    "gpst_jax/studies",
    "experiments",
]
MOST_MODULES = {"experiments": 25}
MOST_LINES = 400


def _files() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def _room(path: Path) -> str:
    """The room of a file: `gpst_jax/models`; folders inside a room belong to it."""
    parts = path.relative_to(ROOT).parts
    deep = 2 if len(parts) > 2 and parts[0] != "experiments" else 1
    return "/".join(parts[:deep])


def _imports(path: Path) -> Iterator[Path]:
    """The files of this project that a file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] in PACKAGES:
                yield _file(parts)


def _file(parts: list[str]) -> Path:
    for end in range(len(parts), 0, -1):
        base = ROOT.joinpath(*parts[:end])
        for candidate in (base.with_suffix(".py"), base / "__init__.py"):
            if candidate.is_file():
                return candidate
    raise AssertionError(f"{'.'.join(parts)} is nowhere")


def test_folders_import_downward_only():
    upward = []
    for path in _files():
        room = _room(path)
        assert room in ORDER, f"{path}: say in ORDER where {room} stands"
        for target in _imports(path):
            other = _room(target)
            if ORDER.index(other) > ORDER.index(room):
                upward.append(f"{path.relative_to(ROOT)} -> {target.relative_to(ROOT)}")
    assert not upward


def test_the_data_pipeline_knows_no_jax():
    for path in (ROOT / "data_pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] in ("jax", "flax")], path


def test_files_import_in_no_circle():
    # What a package hands on from its __init__ is not a wish of the files in it.
    arrows = {
        path: {found for found in _imports(path) if found != path.parent / "__init__.py"}
        for path in _files()
    }
    done: set[Path] = set()

    def visit(path: Path, trail: tuple[Path, ...]) -> None:
        if path in trail:
            circle = [str(step.relative_to(ROOT)) for step in (*trail[trail.index(path) :], path)]
            pytest.fail(" -> ".join(circle))
        if path not in done:
            for target in arrows[path]:
                visit(target, (*trail, path))
            done.add(path)

    for path in arrows:
        visit(path, ())


def test_no_folder_and_no_file_is_too_large():
    for package in PACKAGES:
        for folder in [ROOT / package, *(p for p in (ROOT / package).rglob("*") if p.is_dir())]:
            modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
            most = MOST_MODULES.get(str(folder.relative_to(ROOT)), 15)
            assert len(modules) <= most, f"{folder} holds {len(modules)} modules"
    for path in _files():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= MOST_LINES, f"{path} has {lines} lines"


def test_a_package_of_the_device_side_holds_folders_only():
    assert [path.name for path in (ROOT / "gpst_jax").glob("*.py")] == ["__init__.py"]
