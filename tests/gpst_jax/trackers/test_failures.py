"""Trackers that fail, and names of none."""

import os

import pytest

from data_pipeline.runtime.errors import UserError
from gpst_jax.trackers import check_names, make_trackers
from gpst_jax.trackers.optional import OptionalTracker
from gpst_jax.trackers.rows import RowTracker

CONFIG = {"name": "run", "train": {"steps": 10}}
KEY = "0123456789abcdef0123456789abcdef01234567"


class Failing(RowTracker):
    """Fails in one method."""

    name = "failing"

    def __init__(self, workdir, where):
        super().__init__(workdir)
        self.where, self.calls = where, []

    def _fail(self, method):
        self.calls.append(method)
        if method == self.where:
            raise OSError(f"no space left\nfor {os.environ['WANDB_API_KEY']}")

    def open(self, run_id, config):
        self._fail("open")
        return -1

    def append(self, step, row):
        self._fail("append")

    def shut(self):
        self._fail("shut")


@pytest.mark.parametrize("where", ["open", "append", "shut"])
def test_a_tracker_that_fails_says_so_once(where, tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    failing = Failing(tmp_path, where)
    tracker = OptionalTracker("failing", failing)
    tracker.start("run-0", CONFIG, 0)
    for step in range(1, 5):
        tracker.write(step, {"train/loss": 1.0})
    tracker.saved(4)
    tracker.close()
    (record,) = caplog.records
    expected = "failing: no space left for ***; the run goes on without it"
    assert record.getMessage() == expected
    assert failing.calls.count(where) == 1
    assert failing.calls[-1] == "shut"


def test_unknown_names_are_refused(tmp_path):
    check_names(["tensorboard", "wandb"])
    with pytest.raises(UserError, match=r"--trackers=wand: choose from .*tensorboard, wandb"):
        make_trackers(tmp_path, ["wand"])
    assert len(make_trackers(tmp_path, ["tensorboard", "wandb", "wandb"])) == 4
