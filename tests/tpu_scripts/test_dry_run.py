"""What every verb would do with every back end, and that it does nothing else.

GPST_UPDATE_GOLDEN=1 pytest tests/tpu_scripts/test_dry_run.py   writes the golden files anew; read
the difference before it is committed.
"""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from launch_settings import BACKENDS, write_settings

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "tpu_scripts"
GOLDEN = Path(__file__).parent / "golden"
UPDATE = bool(os.environ.get("GPST_UPDATE_GOLDEN"))
SECRET = "hush now&'1"
VERBS = {
    "create": [],
    "sync": [],
    "setup": [],
    "launch": ["--config.train.steps=9", "--", "--profile_steps=5:9"],
    "status": [],
    "logs": ["--host=1", "--lines=5", "--follow"],
    "ssh_all": ["--", "ls", "a b"],
    "stop": [],
    "delete": [],
    "up": ["--config.train.steps=9"],
}


def call(verb, *arguments, path=None, stdin="", **extra):
    """Runs a verb with only the standard tools, and those of `path`, on PATH."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GPST_")}
    paths = [str(path)] if path else []
    environment = plain | {"PATH": os.pathsep.join([*paths, plain["PATH"]])} | extra
    return subprocess.run(
        [SCRIPTS / f"{verb}.sh", *arguments],
        capture_output=True,
        text=True,
        input=stdin,
        env=environment,
        timeout=240,
    )


@pytest.fixture
def traps(tmp_path):
    """Directory of clouds and clusters that must not be called."""
    directory = tmp_path / "traps"
    directory.mkdir()
    tools = ("gcloud", "kubectl", "docker", "ssh", "sbatch", "scancel", "squeue", "srun", "tar")
    for tool in tools:
        file = directory / tool
        file.write_text(f"#!/bin/sh\necho {tool} >>{shlex.quote(str(tmp_path / 'called'))}\n")
        file.chmod(0o755)
    return directory


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_dry_run(tmp_path, traps, backend, verb):
    settings = write_settings(tmp_path / "my run.env", backend)
    done = call(
        verb, f"--env={settings}", "--dry_run", *VERBS[verb], path=traps, WANDB_API_KEY=SECRET
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "called").exists()
    assert SECRET not in done.stdout + done.stderr
    assert "hush" not in done.stdout + done.stderr  # nor a quoted form of it
    if verb == "launch" and not backend.startswith(
        "slurm"
    ):  # which hands over the environment as it is
        assert "WANDB_API_KEY" in done.stdout
    text = done.stdout.replace(str(ROOT), "ROOT")
    golden = GOLDEN / backend / f"{verb}.txt"
    if UPDATE:
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("example", sorted((SCRIPTS / "examples").iterdir()), ids=lambda p: p.name)
def test_an_example_launches_a_run(tmp_path, traps, example):
    done = call("up", f"--env={example}", "--dry_run", path=traps)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "called").exists()
    config = re.search(r"--config=(\S+)", done.stdout)[1]
    assert (ROOT / config).is_file()
    kind = example.stem.partition("_")[2]
    assert f"#SBATCH --partition={kind}\n" in done.stdout
    assert ("#SBATCH --gpus-per-node=8\n" in done.stdout) == (kind == "gpu")
    cpus = re.findall(r"--cpus-per-task=(\d+)", done.stdout)
    assert len(cpus) == 2  # a step of a job does not inherit it
    assert len(set(cpus)) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_printed_can_be_run(tmp_path, traps, backend):
    """A shell that reads the printed commands calls the same programs with the same words."""
    settings = write_settings(tmp_path / "run.env", backend)
    printed = call("launch", f"--env={settings}", "--dry_run", path=traps).stdout
    recorder = tmp_path / "recorder"
    recorder.mkdir()
    for tool in ("gcloud", "kubectl", "sbatch", "mkdir", "rm"):
        file = recorder / tool
        file.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$@" >>{shlex.quote(str(tmp_path / "words"))}\ncat >>'
            f"{shlex.quote(str(tmp_path / 'words'))}\n"
        )
        file.chmod(0o755)
    environment = {"PATH": f"{recorder}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", printed], env=environment, check=True, stdin=subprocess.DEVNULL)
    words = (tmp_path / "words").read_text()
    assert "--workdir=/mnt/gpst/my runs" in words
    assert "--config=my configs/tiny.py" in words


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--name=Bad_Name"], "--name=Bad_Name: small letters"),
        (["--backend=cloud"], "choose queued, mig, gke or slurm"),
        (["--backend=vm"], "choose queued, mig, gke or slurm"),
        (["--topology=v5p:4x4x4"], "queued resources serve v4 and v5e"),
        (["--topology=v5e"], "write GENERATION:AxB"),
        (["--topology=v9:4x4"], "choose v4, v5e"),
        (["--topology=v5e:3x5"], "v5e has no such slice; it has 1x1, 2x2, 2x4"),
        (["--topology=v5e:32x32"], "no such slice"),
        (["--topology=v5e:4x2"], "no such slice"),
        (["--topology=v5e:2x2x2"], "no such slice"),
        (["--topology=v4:2x2"], "v4 has no such slice; it has 2x2x1"),
        (["--topology=v4:4x4x6"], "multiples of 4"),
        (["--backend=mig", "--topology=v5p:2x2"], "v5p has no such slice"),
        (["--backend=mig", "--topology=v6e:16x32"], "v6e has no such slice"),
        (["--backend=gke", "--topology=tpu7x:8x4x4"], "tpu7x has no such slice"),
        (
            ["--workdir=gs://bucket/run"],
            "--workdir=gs://bucket/run: buckets are not accessed directly",
        ),
        (["--data=s3://bucket/tokens"], "buckets are not accessed directly"),
        (["--config=gs:/bucket/config.py"], "buckets are not accessed directly"),
        (["--bucket=gs://bucket"], "give the bucket's name alone"),
        (["--num_slices=0"], "a whole number above 0"),
        (["--project="], "--project is not set"),
        (["--reserved"], "exclude each other"),
        (["--what=1"], "unknown flag --what"),
        (["--set=a.b=c"], "set=a.b=c: write --config.a.b=c"),
        (["--config.a.b"], "--config.a.b: needs a value"),
        (["--config.data.path=c"], "--config.data.path=c: give the dataset as --data"),
        (["what"], "unknown argument 'what'"),
        (["--env=nowhere"], "no such file"),
        (["--topology=cpu:2x2"], "queued resources serve v4 and v5e"),
        (["--backend=slurm"], "for slurm write gpu:NODESxGPUS or cpu:NODESxPROCESSES"),
        (["--backend=slurm", "--topology=cpu:2x2x2"], "gpu:NODESxGPUS or cpu:NODESxPROCESSES"),
        (["--backend=slurm", "--topology=cpu:2x2", "--cpus=all"], "--cpus=all: a whole number"),
    ],
)
def test_bad_input_is_one_line(tmp_path, traps, flags, message):
    settings = write_settings(tmp_path / "run.env", "queued")
    given = [f"--env={settings}", *flags, "--dry_run"]
    done = call("create", *given, path=traps)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize("backend", ["queued", "mig", "gke"])
def test_nothing_is_deleted_unless_the_name_is_typed(tmp_path, traps, backend):
    settings = write_settings(tmp_path / "run.env", backend)
    verbs = ["delete", "up"] + (["stop"] if backend == "gke" else [])
    for verb in verbs:
        for typed in ("", "yes\n", "tiny2\n"):
            done = call(verb, f"--env={settings}", path=traps, stdin=typed)
            assert done.returncode == 2
            assert "nothing was deleted" in done.stderr
            assert not (tmp_path / "called").exists()
    assert call("delete", f"--env={settings}", path=traps, stdin="tiny\n").returncode == 0
    assert (tmp_path / "called").exists()


def test_yes_needs_no_typing(tmp_path, traps):
    settings = write_settings(tmp_path / "run.env", "queued")
    assert call("delete", f"--env={settings}", "--yes", path=traps).returncode == 0
    assert (tmp_path / "called").read_text() == "gcloud\n"


def test_flags_win_over_the_file_and_the_file_over_the_environment(tmp_path, traps):
    settings = write_settings(tmp_path / "run.env", "queued")
    done = call(
        "create", "--dry_run", path=traps, GPST_ENV=str(settings), GPST_ZONE="x", GPST_NETWORK="net"
    )
    assert "--zone=us-west4-a" in done.stdout
    assert "--network=net" in done.stdout
    done = call("create", "--dry_run", "--zone=here", path=traps, GPST_ENV=str(settings))
    assert "--zone=here" in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_help(verb):
    done = call(verb, "--help")
    assert done.returncode == 0
    assert f"tpu_scripts/{verb}.sh" in done.stdout
    assert "--num_slices [1]: slices of that topology" in done.stdout
