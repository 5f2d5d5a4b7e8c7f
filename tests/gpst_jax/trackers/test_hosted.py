"""Weights & Biases and trackio, with the real libraries, kept on this machine.

Their stored steps are those of `metrics.jsonl`, however often a run is killed; whatever fails in
them, the run goes on; and no key gets into what a run writes.
"""

import contextlib
import json
import logging
import os
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import programs
import pytest
from toy_run import ToyLoader, ToyObjective, compile_once, toy_config, with_train  # noqa: F401

from gpst_jax.trackers import OTHERS, make_trackers
from gpst_jax.trackers.base import TrackerGroup
from gpst_jax.trackers.jsonl import METRICS_FILE, read_metrics
from gpst_jax.trackers.wandb_files import history, trim
from gpst_jax.training import loop

CONFIG = {"name": "run", "train": {"steps": 10}, "parameters": 123, "code_version": "1+abc"}
KEY = "0123456789abcdef0123456789abcdef01234567"
HF_TOKEN = "hf_abcdefghijklmnopqrstuvwxyz"
RUN = "gpst-00c0ffee"


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Nothing is set but keys, which must never be seen, and no address can be reached."""
    for name in list(os.environ):
        if name.startswith(("WANDB", "TRACKIO")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN", HF_TOKEN)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb-data"))
    # For the life of a process trackio keeps one directory, see `stored_trackio`.
    monkeypatch.setenv("TRACKIO_DIR", os.environ.get("GPST_TEST_TRACKIO", ""))

    def refuse(*arguments, **named):
        raise AssertionError(f"the network is touched: {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module", autouse=True)
def trackio_directory(tmp_path_factory):
    os.environ["GPST_TEST_TRACKIO"] = str(tmp_path_factory.mktemp("trackio"))
    yield
    del os.environ["GPST_TEST_TRACKIO"]


def needs(name):
    return pytest.importorskip(name, reason=f"the extra {name} is not installed")


def stored_wandb(workdir, run_id=RUN):
    """{step: row} in the files of all starts; a step that is there twice fails."""
    rows = {}
    for path in sorted((workdir / "wandb").glob(f"*run-*/run-{run_id}.wandb")):
        for step, row in history(path):
            assert step not in rows, f"step {step} twice"
            rows[step] = row
    return rows


def stored_trackio(directory, run_id=RUN, project="gpst_jax"):
    """The same of the database."""
    rows = {}
    with sqlite3.connect(Path(directory) / f"{project}.db") as database:
        for step, text in database.execute(
            "SELECT step, metrics FROM metrics WHERE run_name = ? ORDER BY id", (run_id,)
        ):
            assert step not in rows, f"step {step} twice"
            rows[step] = json.loads(text)
    return rows


def stored(name, workdir, run_id=RUN):
    if name == "wandb":
        return stored_wandb(workdir, run_id)
    return stored_trackio(os.environ["TRACKIO_DIR"] or workdir / "trackio", run_id)


def recorded(workdir):
    """{step: row} of `metrics.jsonl`, as the stores hold it."""
    rows = {}
    for line in read_metrics(workdir / METRICS_FILE):
        row = {name: "NaN" if value is None else value for name, value in line.items()}
        rows.setdefault(row["step"], {}).update(row)
    return {
        step: {name: value for name, value in row.items() if name not in ("step", "time")}
        for step, row in rows.items()
    }


def scalars(rows):
    """Without what a store adds, and without media."""
    return {
        step: {
            name: value if value == value else "NaN"
            for name, value in row.items()
            if "/" in name and not isinstance(value, dict) and "." not in name
        }
        for step, row in rows.items()
    }


def start(name, workdir, step, run_id=RUN):
    """A group of the JSON lines and a tracker of this name, as a run has them."""
    made = [tracker for tracker in make_trackers(workdir, [name])]
    group = TrackerGroup(made[1:])  # all but the console
    group.start(run_id, CONFIG, step)
    return group


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_a_store_takes_all_that_a_run_writes(name, tmp_path, offline, caplog):
    needs(name)
    run_id = f"all-of-{name}"
    group = start(name, tmp_path, 0, run_id)
    group.write(5, {"train/loss": 1.5, "train/learning_rate": 1e-3})
    group.write(5, {"eval/loss": float("inf")})
    group.write_audio(5, "preview/0", np.linspace(-1, 1, 1600, dtype=np.float32), 16_000)
    group.write_image(5, "picture", np.zeros((4, 5), np.uint8))
    group.write_table(5, "evaluation", ["measure", "mean"], [["loss", 1.5]])
    group.write(6, {"train/loss": 1.25})
    group.saved(6)
    group.close()
    assert not [line for line in caplog.messages if "goes on without it" in line]
    rows = stored(name, tmp_path, run_id)
    assert scalars(rows) == {
        5: {"train/loss": 1.5, "train/learning_rate": 1e-3, "eval/loss": "NaN"},
        6: {"train/loss": 1.25},
    }
    text = json.dumps(rows[5])
    for media in ("preview/0", "preview/0/spectrogram", "picture", "evaluation"):
        assert media in text
    files = tmp_path if name == "wandb" else Path(os.environ["TRACKIO_DIR"])
    assert {path.suffix for path in files.rglob("*") if "media" in path.parts} >= {".png", ".wav"}


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_a_resumed_run_goes_on_where_the_store_ends(name, tmp_path, offline):
    """Killed at three moments: before a row is stored, in the middle of a step, after a save."""
    needs(name)
    run_id = f"resumed-{name}"
    group = start(name, tmp_path, 0, run_id)
    for step in range(1, 8):  # of 7 the evaluation is still to come
        group.write(step, {"train/loss": float(step)})
    group.close()  # ends as after an error: no checkpoint has followed
    assert list(stored(name, tmp_path, run_id)) == [1, 2, 3, 4, 5, 6]
    group = start(name, tmp_path, 4, run_id)  # repeats 5, 6 and 7
    for step in range(5, 10):
        group.write(step, {"train/loss": float(step)})
        group.write(step, {"eval/loss": 2.0}) if step == 7 else None
    group.saved(9)
    group.close()
    group = start(name, tmp_path, 9, run_id)
    group.write(10, {"train/loss": 10.0})
    group.saved(10)
    group.close()
    assert scalars(stored(name, tmp_path, run_id)) == recorded(tmp_path)
    assert list(recorded(tmp_path)) == list(range(1, 11))


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_a_store_that_comes_later_gets_all_rows(name, tmp_path, offline):
    needs(name)
    run_id = f"later-{name}"
    lines = [{"step": step, "time": 0.0, "train/loss": float(step)} for step in (1, 2, 3)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / METRICS_FILE).write_text(text)
    start(name, tmp_path, 2, run_id).close()
    assert scalars(stored(name, tmp_path, run_id)) == recorded(tmp_path)
    assert list(recorded(tmp_path)) == [1, 2]


class Crash(Exception):
    """Nothing is saved on the way out."""


@pytest.mark.usefixtures("compile_once")
def test_a_training_run_that_crashes_three_times(tmp_path, offline, caplog):
    """The stores get every step once, what a run is, and the table of its last evaluation."""
    for name in OTHERS:
        needs(name)
    config = toy_config(train={"steps": 16, "checkpoint_every_steps": 3, "eval_every": 4})
    config = with_train(config, eval_batches=1)
    for crash_at in (5, 8, 13, None):
        loader = ToyLoader()

        def before_next(row, crash_at=crash_at):
            if row == 8 * (crash_at or -1):
                raise Crash

        loader.before_next = before_next
        with pytest.raises(Crash) if crash_at else contextlib.nullcontext():
            loop.train(
                config,
                ToyObjective(),
                {"train": loader, "valid": ToyLoader()}.get,
                tmp_path,
                dataset={"fingerprint": "dataset-a"},
                devices=jax.devices()[:1],
                trackers=make_trackers(tmp_path, OTHERS),
            )
    assert not [line for line in caplog.messages if "goes on without it" in line]
    run_id = (tmp_path / "run_id").read_text().strip()
    expected = untimed(recorded(tmp_path))
    assert list(expected) == list(range(1, 17))
    for name in OTHERS:
        rows = stored(name, tmp_path, run_id)
        assert untimed(scalars(rows)) == expected
        assert any(key.startswith("evaluation") for key in rows[16])
    first, *_ = sorted((tmp_path / "wandb").glob("*run-*/*.wandb"))
    with sqlite3.connect(Path(os.environ["TRACKIO_DIR"]) / "gpst_jax.db") as database:
        (text,) = database.execute("SELECT config FROM configs WHERE run_name = ?", (run_id,))
    for content in (first.read_bytes(), bytes(text[0])):
        for fact in (b"parameters", b"dataset-a", b"code_version", b"inverse_sqrt"):
            assert fact in content
    assert list(tmp_path.glob("checkpoints/*"))
    assert holders_of_secrets(tmp_path) == []
    assert not [secret for secret in (KEY, HF_TOKEN) if secret in caplog.text]


def untimed(rows):
    """Without rates, which differ between a step and its repetition."""
    return {
        step: {name: value for name, value in row.items() if not name.startswith("perf/")}
        for step, row in rows.items()
    }


KILLED = """
import os, signal, sys
from pathlib import Path
from gpst_jax.trackers import make_trackers
from gpst_jax.trackers.base import TrackerGroup

workdir, kill_at = Path(sys.argv[1]), int(sys.argv[2])
saved = workdir / "saved"
restored = int(saved.read_text()) if saved.exists() else 0
group = TrackerGroup(make_trackers(workdir, ["wandb", "trackio"])[1:])
group.start("gpst-00c0ffee", {"name": "run", "parameters": 7}, restored)
for step in range(restored + 1, 31):
    group.write(step, {"train/loss": 1.0 / step, "perf/mfu": 0.5})
    if step % 5 == 0:
        group.write(step, {"eval/loss": 2.0 / step})
    if step % 4 == 0:
        saved.write_text(str(step))
        group.saved(step)
    if step == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
group.saved(30)
group.close()
"""


@pytest.mark.slow
def test_killed_three_times_the_stores_hold_the_lines_of_the_run(tmp_path):
    """Kill -9, with the default directories: everything is in the workdir, and no key."""
    needs("wandb")
    needs("trackio")
    environment = {
        name: value
        for name, value in programs.environment().items()
        if not name.startswith(("TRACKIO", "WANDB"))
    } | {"WANDB_MODE": "offline", "WANDB_API_KEY": KEY, "HF_TOKEN": HF_TOKEN}
    workdir = tmp_path / "run"
    workdir.mkdir()
    printed = b""
    for kill_at in (6, 16, 27, 0):
        process = subprocess.run(
            [sys.executable, "-c", KILLED, str(workdir), str(kill_at)],
            env=environment,
            capture_output=True,
            timeout=240,
        )
        assert process.returncode == (-9 if kill_at else 0), process.stderr.decode()
        printed += process.stdout + process.stderr
    expected = recorded(workdir)
    assert list(expected) == list(range(1, 31))
    assert scalars(stored_wandb(workdir)) == expected
    assert scalars(stored_trackio(workdir / "trackio")) == expected
    assert not [secret for secret in (KEY, HF_TOKEN) if secret.encode() in printed]
    assert holders_of_secrets(workdir) == []


def holders_of_secrets(directory):
    """The files below a directory with a key in them."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert files
    keys = [secret.encode() for secret in (KEY, HF_TOKEN)]
    return [path for path in files if any(key in path.read_bytes() for key in keys)]


def test_wandb_captures_nothing_of_the_machine(tmp_path, offline):
    needs("wandb")
    group = start("wandb", tmp_path, 0, "quiet")
    print("a line on the console")
    group.write(1, {"train/loss": 1.0})
    group.saved(1)
    group.close()
    files = {path.name for path in (tmp_path / "wandb").rglob("*") if path.is_file()}
    assert not files & {
        "output.log",
        "requirements.txt",
        "wandb-metadata.json",
        "diff.patch",
        "conda-environment.yaml",
    }
    (path,) = (tmp_path / "wandb").glob("*run-*/run-quiet.wandb")
    content = path.read_bytes()
    assert b"code_version" in content
    assert b"parameters" in content
    for private in (b"a line on the console", socket.gethostname().encode(), KEY.encode()):
        assert private not in content


def test_without_key_and_mode_wandb_says_that_it_is_offline(tmp_path, offline, caplog, monkeypatch):
    needs("wandb").teardown()  # it reads the environment once in a process
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY")
    caplog.set_level(logging.INFO)
    start("wandb", tmp_path, 0, "keyless").close()
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("gpst_jax")]
    assert len(lines) == 1
    assert "neither WANDB_API_KEY nor WANDB_MODE is set: offline" in lines[0]
    assert list((tmp_path / "wandb").glob("offline-run-*-keyless"))


def test_a_log_cut_short_is_read_up_to_there(tmp_path, offline):
    needs("wandb")
    group = start("wandb", tmp_path, 0, "cut")
    for step in range(1, 400):  # more than one block of 32 KiB
        group.write(step, {"train/loss": float(step)})
    group.saved(399)
    group.close()
    (path,) = (tmp_path / "wandb").glob("*run-*/run-cut.wandb")
    content = path.read_bytes()
    assert len(content) > 2 * 32768
    assert [step for step, _ in history(path)] == list(range(1, 400))
    path.write_bytes(content[: len(content) // 2])
    cut = [step for step, _ in history(path)]
    assert 100 < len(cut) < 300
    assert cut == list(range(1, len(cut) + 1))
    trim(tmp_path / "wandb", "cut", path.parent)  # the file of this start is left alone
    assert path.stat().st_size == len(content) // 2
    trim(tmp_path / "wandb", "cut", tmp_path)
    whole = path.read_bytes()  # records, none of them cut
    path.write_bytes(content[: len(whole) + 3])
    trim(tmp_path / "wandb", "cut", tmp_path)
    assert path.read_bytes() == whole
    assert content.startswith(whole)
    assert [step for step, _ in history(path)] == cut


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_a_library_that_is_not_installed_names_the_extra(name, tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("WANDB_MODE", "offline")
    group = start(name, tmp_path, 0)
    group.write(1, {"train/loss": 1.0})
    group.close()
    (record,) = caplog.records
    assert f"{name}: pip install 'gpst_jax[{name}]' is needed" in record.getMessage()
    assert recorded(tmp_path) == {1: {"train/loss": 1.0}}
