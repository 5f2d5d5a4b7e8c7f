"""The page docs/launch.md, walked command by command against the fakes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "launch.md"
REHEARSAL = ROOT / "tpu_scripts" / "rehearsal"
SMALL = ("v5p:4x8x8", "v5p:2x2x2")  # 2 hosts in the place of 64
STUB = f"""#!/bin/sh
# Compiling a pod takes minutes: preflight.sh is tested elsewhere.
case "$*" in
*experiments.compile*) echo '-m experiments.compile' ;;
*data_pipeline.check_dataset*) echo '-m data_pipeline.check_dataset' ;;
*experiments.preflight*) echo '-m experiments.preflight' ;;
*) exec {sys.executable} "$@" ;;
esac
"""


def blocks():
    """(section, commands) of every indented block up to the sections on other back ends."""
    found, section = [], ""
    for paragraph in PAGE.read_text().split("\n\n"):
        if match := re.match(r"## (.*)", paragraph):
            section = match[1]
        lines = paragraph.splitlines()
        if lines and all(line.startswith("    ") for line in lines):
            found.append((section, "\n".join(line[4:] for line in lines)))
    return found


# Of the checkout: what the scripts read without Python's packages.
KEPT = (
    *("tpu_scripts/", "docker/", "requirements/", "setup.py"),
    "gpst_jax/parallel/topologies.py",
)


@pytest.fixture
def newcomer(tmp_path):
    """Function (commands, small) -> finished call, in a checkout with the fakes on PATH."""
    checkout = tmp_path / "a checkout"
    listed = ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in names:
        if name.startswith(KEPT):
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, checkout / name)
    (checkout / "runs" / "tokens").mkdir(parents=True)
    subprocess.run(["git", "init", "-q", checkout], check=True)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in {
        "stub": STUB,
        "make": "#!/bin/sh\necho make $*\n",
        "gcsfuse": "#!/bin/sh\n",
    }.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    # Hours of a pod are not spent on a test.
    rehearse = checkout / "tpu_scripts" / "rehearse.sh"
    rehearse.write_text("#!/bin/sh\necho rehearsed\n")
    settings = {"python": sys.executable, "devices": 1, "execute": False, "faults": []}
    sys.path.insert(0, str(REHEARSAL))
    try:
        from world import World
    finally:
        sys.path.pop(0)
    world = World(tmp_path / "world")
    world.create(settings)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GPST_")}
    fakes = checkout / "tpu_scripts" / "rehearsal" / "bin"
    environment = plain | {
        "PATH": os.pathsep.join([str(fakes), str(tools), plain["PATH"]]),
        "GPST_WORLD": str(world.path),
        "GPST_FAKE_PYTHON": sys.executable,
        "PYTHON": str(tools / "stub"),
        "GPST_WAIT": "1",
        "GPST_POLL": "1",
    }
    script = tmp_path / "walked.sh"
    script.write_text("set -e\n")

    def walk(commands, background=False, stdin=""):
        """In one shell after all that came before, as far as it sets variables."""
        text = commands.replace(*SMALL)
        words = ["bash", "-c", f"{script.read_text()}\n{text}"]
        with script.open("a") as file:
            file.writelines(f"{line}\n" for line in text.splitlines() if line.startswith("export"))
        if background:
            log = (tmp_path / "up.log").open("w")
            return subprocess.Popen(
                words, cwd=checkout, env=environment, stdout=log, stderr=log, text=True
            )
        return subprocess.run(
            words, cwd=checkout, env=environment, capture_output=True, text=True, input=stdin
        )

    yield walk, world, tmp_path / "up.log"
    for home in (world.path / "hosts").iterdir():
        world.kill(home.name)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_newcomer_gets_to_running(newcomer):
    walk, world, log = newcomer
    before = {}
    for section, commands in blocks():
        if commands.strip() == "tpu_scripts/up.sh --config.data.batch_size=1024":
            continue  # the other way, below
        done = walk(commands)
        assert done.returncode == 0, f"{section}:\n{commands}\n{done.stdout}\n{done.stderr}"
        before[section] = done.stdout
        if section.startswith("5. ") and "launch.sh" in commands:
            # Both hosts, at the end of the block; none at its first status.
            assert done.stdout.count(" running") == 2, done.stdout
            assert "slices ready" in done.stdout
    assert world.state()["resources"].keys() == {"gs://my-bucket"}  # the bucket is not touched
    trained = [json.loads(line) for line in (world.path / "calls.log").read_text().splitlines()]
    starts = [" ".join(call) for call in trained if "on_host.sh start" in call[-1]]
    assert len(starts) == 4
    assert all("--config.data.batch_size=1024" in start for start in starts)
    # By up.sh: from nothing again, until it says that the run is running.
    process = walk("tpu_scripts/up.sh --config.data.batch_size=1024 --yes", background=True)
    try:
        deadline = time.monotonic() + 200
        while "run running" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@pytest.mark.slow
@pytest.mark.parametrize("left_out", ["create", "sync", "setup"])
def test_a_missing_step_shows(newcomer, left_out):
    walk, _, _ = newcomer
    for section, commands in blocks():
        if section.startswith(("2. ", "4. ")):
            assert walk(commands).returncode == 0
    verbs = [verb for verb in ("create", "sync", "setup", "launch") if verb != left_out]
    codes = [walk(f"tpu_scripts/{verb}.sh").returncode for verb in verbs]
    walk("sleep 1")
    state = walk("tpu_scripts/status.sh")
    assert any(codes) or " running" not in state.stdout
    assert " running" not in state.stdout


def test_the_arithmetic_is_that_of_the_pods_table():
    lines = (ROOT / "docs" / "pods.md").read_text().splitlines()
    rows = [
        next(line for line in lines if line.startswith(start))
        for start in ("| config |", "| gpst_1b | 1,001.7M | v5p:4x8x8")
    ]
    names, values = ([cell.strip() for cell in row.strip("|").split("|")] for row in rows)
    cells = dict(zip(names, values, strict=True))
    chips, step = int(cells["chips"]), float(cells["roofline step, s"])
    hbm, capacity = cells["HBM per chip, GiB"], cells["of"]
    page = " ".join(PAGE.read_text().split())
    config = (ROOT / "experiments" / "configs" / "gpst_1b.py").read_text()
    steps = int(re.search(r"\bsteps=([\d_]+),\n", config)[1])
    assert f"{steps:,} steps" in page
    assert f"at least {step:.3f} s" in page
    assert f"{hbm} of {capacity} GiB" in page
    hours = steps * step / 3600
    assert f"= {hours:.1f} h |" in page
    assert f"x {chips} = {hours * chips:,.0f} |" in page
    slow = steps * 2 * step / 3600 / 0.95
    assert f"= {slow:.1f} h |" in page
    assert f"x {chips} = {slow * chips:,.0f} |" in page


def test_the_page_names_every_verb_and_only_files_that_are_there():
    page = PAGE.read_text()
    for verb in (
        "create",
        "setup",
        "launch",
        "status",
        "logs",
        "ssh_all",
        "sync",
        "stop",
        "delete",
    ):
        assert f"{verb}.sh" in page
    for name in re.findall(r"(?<![\w/])(?:tpu_scripts|docker|experiments/configs)/[\w./]+\w", page):
        assert (ROOT / name).exists(), name
