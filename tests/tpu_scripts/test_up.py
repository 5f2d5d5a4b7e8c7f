"""The loop of up.sh against the fakes: how it gives up, and how a run that has ended ends it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from launch_settings import write_settings

ROOT = Path(__file__).resolve().parents[2]
REHEARSAL = ROOT / "tpu_scripts" / "rehearsal"


@pytest.fixture
def up(tmp_path):
    """Function (faults, name of host -> exit code of its run) -> finished up.sh."""
    sys.path.insert(0, str(REHEARSAL))
    try:
        from world import World
    finally:
        sys.path.pop(0)
    settings = write_settings(tmp_path / "run.env", "queued_slices")
    world = World(tmp_path / "world")

    def call(faults=(), codes=None, stopped=False):
        made = {"python": sys.executable, "devices": 1, "execute": False, "faults": list(faults)}
        world.create(made)
        if codes is not None:
            with world.change() as state:
                state["resources"]["tiny"] = {"state": "ACTIVE"}
            world.add_hosts("tiny", list(codes))
            for host, code in codes.items():
                home = world.home(host)
                (home / "gpst_jax").mkdir()
                (home / "gpst_jax" / "tpu_scripts").symlink_to(ROOT / "tpu_scripts")
                run = home / "gpst_runs" / "tiny"
                run.mkdir(parents=True)
                (run / "pid").write_text("999999999\n")
                (run / "exit_code").write_text(f"{code}\n")
                (run / "log").write_text("the last words\n")
                if stopped:
                    (run / "stopped").touch()
        environment = os.environ | {
            "PATH": f"{REHEARSAL / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "GPST_WORLD": str(world.path),
            "GPST_FAKE_PYTHON": sys.executable,
        }
        words = [ROOT / "tpu_scripts" / "up.sh", f"--env={settings}", "--yes"]
        done = subprocess.run(
            [*words, "--wait=0", "--poll=1", "--max_tries=3"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        calls = (world.path / "calls.log").read_text().splitlines()
        return done, [" ".join(json.loads(line)) for line in calls]

    return call


def fault(message, times=99):
    return {"name": "x", "call": "resources create", "times": times, "code": 1, "message": message}


def test_it_gives_up_after_so_many_tries(up):
    done, calls = up([fault("RESOURCE_EXHAUSTED: no capacity")])
    assert done.returncode == 69
    assert "at try 3 of 3: giving up" in done.stderr
    assert sum("queued-resources create" in call for call in calls) == 3


def test_what_cannot_be_made_is_not_tried_again(up):
    done, calls = up([fault("PERMISSION_DENIED: no access to the project")])
    assert done.returncode == 2
    assert "PERMISSION_DENIED" in done.stderr
    assert sum("queued-resources create" in call for call in calls) == 1


HOSTS = ("tiny-0/0", "tiny-0/1", "tiny-1/0", "tiny-1/1")


@pytest.mark.parametrize(
    ("codes", "stopped", "expected"),
    [
        ((0, 0, 0, 0), False, 0),
        ((1, 134, 1, 1), False, 1),
        ((2, 2, 2, 2), False, 2),
        ((4, 134, 4, 4), False, 4),
        ((5, 5, 5, 5), False, 5),
        ((75, 75, 75, 75), True, 75),
    ],
)
def test_a_run_that_has_ended_ends_it(up, codes, stopped, expected):
    done, calls = up(codes=dict(zip(HOSTS, codes, strict=True)), stopped=stopped)
    assert done.returncode == expected, done.stderr
    if expected in (1, 2, 4, 5):
        assert "the last words" in done.stdout + done.stderr
    assert not any("delete" in call or "on_host.sh start" in call for call in calls)
