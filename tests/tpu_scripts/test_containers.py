"""The Dockerfiles: hadolint, and the rules of ours that it does not know."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
KINDS = [file.name.split(".")[0] for file in FILES]


def tool(name):
    """A program of the extra dev: on PATH or beside this Python."""
    found = shutil.which(name) or shutil.which(name, path=Path(sys.executable).parent)
    assert found, f"{name} is missing: install the extra dev"
    return found


def instructions(file):
    """(instruction, rest) of a Dockerfile, continued lines joined, comments left out."""
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def test_there_is_one_for_each_accelerator():
    assert KINDS == ["cpu", "cuda", "tpu"]


@pytest.mark.parametrize("file", FILES, ids=KINDS)
def test_hadolint(file):
    done = subprocess.run([tool("hadolint"), file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("file", FILES, ids=KINDS)
def test_everything_installed_is_pinned_by_hash(file):
    kind = file.name.split(".")[0]
    pips = [rest for name, rest in instructions(file) if name == "RUN" and "pip install" in rest]
    locked, ours = pips
    assert "--require-hashes" in locked
    assert "--no-deps" in locked
    named = re.findall(r"--requirement (\S+)", locked)
    assert named == ["requirements/py311.txt"] + (
        [f"docker/py311-{kind}.txt"] if kind != "cpu" else []
    )
    assert all((ROOT / name).is_file() for name in named)
    assert "--no-deps" in ours  # this package alone
    assert "--no-build-isolation" in ours
    assert ours.strip().endswith("--editable .")


@pytest.mark.parametrize("file", FILES, ids=KINDS)
def test_bases_are_pinned_and_nothing_comes_from_a_url(file):
    for name, rest in instructions(file):
        if name == "FROM":
            assert re.match(r"python:3\.11\.\d+-(slim-)?bookworm( AS \w+)?$", rest)
        assert name != "ADD"
        assert "://" not in rest
        assert not re.search(r"(?i)(token|secret|password|api_key)", rest)


@pytest.mark.parametrize("file", FILES, ids=KINDS)
def test_environments_and_secrets_stay_out(file):
    ignored = file.with_name(f"{file.name}.dockerignore").read_text().splitlines()
    assert {".git", ".venv", "runs", "**/*.env"} <= set(ignored)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "tpu"])
def test_the_user_is_not_root(kind):
    names = [
        rest
        for name, rest in instructions(ROOT / "docker" / f"{kind}.Dockerfile")
        if name == "USER"
    ]
    assert names == ["1000"]


@pytest.mark.parametrize("tag", ["py311", "py312"])
@pytest.mark.parametrize("kind", ["cuda", "tpu"])
def test_locks_of_accelerators_fit_the_lock(tag, kind):
    """The same JAX, no package twice, a hash for each."""

    def versions(path):
        return dict(re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", path.read_text(), re.MULTILINE))

    base = versions(ROOT / "requirements" / f"{tag}.txt")
    extra_file = ROOT / "docker" / f"{tag}-{kind}.txt"
    extra = versions(extra_file)
    assert not base.keys() & extra.keys()
    text = extra_file.read_text()
    entries = re.split(r"^(?=[a-z0-9._-]+==)", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in entry for entry in entries)
    if kind == "cuda":
        assert {extra["jax-cuda12-plugin"], extra["jax-cuda12-pjrt"]} == {base["jax"]}
    else:
        setup = (ROOT / "setup.py").read_text()
        assert f"libtpu=={extra['libtpu'].rsplit('.', 1)[0]}.*" in setup


def test_shellcheck():
    scripts = [*ROOT.glob("tpu_scripts/*.sh"), *ROOT.glob("tpu_scripts/backends/*.sh")]
    fakes = [
        *ROOT.glob("tpu_scripts/rehearsal/bin/*"),
        *ROOT.glob("tpu_scripts/rehearsal/host_bin/*"),
    ]
    assert len(scripts) > 15
    command = [tool("shellcheck"), "--external-sources", *scripts, *fakes]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "")
