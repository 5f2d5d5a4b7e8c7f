"""Every module and name that CHANGELOG.md points to is there."""

import importlib
import re
from pathlib import Path

import pytest

CHANGELOG = Path(__file__).resolve().parents[1] / "CHANGELOG.md"
MOVED = re.findall(
    r"^\| `(?:gpst_jax|data_pipeline|experiments)\.[\w.]+` \| `([\w.]+)` \|$",
    CHANGELOG.read_text(encoding="utf-8"),
    re.MULTILINE,
)


def test_there_are_moves():
    assert len(MOVED) > 100


@pytest.mark.parametrize("name", MOVED)
def test_what_moved_is_where_it_says(name):
    root = CHANGELOG.parent.joinpath(*name.split("."))
    if root.with_suffix(".py").is_file() or (root / "__init__.py").is_file():
        return
    module, _, attribute = name.rpartition(".")
    assert hasattr(importlib.import_module(module), attribute)
