"""Trackers: what they write, what a resume drops, and what all of them share."""

import json
import logging
import math

import numpy as np
import pytest

from data_pipeline.runtime.progress import format_duration
from gpst_jax.trackers import TRACKERS, make_trackers
from gpst_jax.trackers.base import NoMedia, TrackerGroup, run_id, spectrogram_image
from gpst_jax.trackers.jsonl import METRICS_FILE, JSONLinesTracker, last_values, read_metrics

CONFIG = {"name": "run", "train": {"steps": 10}}


def started(tracker, step=0):
    tracker.start("run-0", CONFIG, step)
    return tracker


def test_file_holds_null_for_what_is_not_finite(tmp_path):
    tracker = started(JSONLinesTracker(tmp_path))
    tracker.write(1, {"train/loss": math.nan, "train/nll": 2})
    tracker.close()
    (line,) = (tmp_path / METRICS_FILE).read_text().splitlines()
    entry = json.loads(line, parse_constant=pytest.fail)
    assert (entry["step"], entry["train/loss"], entry["train/nll"]) == (1, None, 2.0)
    assert last_values(tmp_path / METRICS_FILE) == {"train/nll": 2.0}


def test_resume_drops_later_lines_and_a_new_run_drops_all(tmp_path):
    tracker = started(JSONLinesTracker(tmp_path))
    for step in (1, 2, 3):
        tracker.write(step, {"x": step})
    tracker.close()
    for restored, expected in ((2, [1, 2]), (0, [])):
        started(JSONLinesTracker(tmp_path), restored).close()
        entries = read_metrics(tmp_path / METRICS_FILE)
        assert [entry["step"] for entry in entries] == expected


def test_damaged_file_is_named(tmp_path):
    path = tmp_path / METRICS_FILE
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_metrics(path)


def test_every_tracker_takes_all_that_a_run_writes(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    group = TrackerGroup(make_trackers(tmp_path))
    group.start("run-0", CONFIG, 0)
    train = {"train/loss": 1.5, "train/nll_q0": 9.0, "train/learning_rate": 1e-3}
    group.write(5, train | {"perf/step_s": 2.0, "perf/data_wait": 0.25, "perf/mfu": 0.5})
    group.write(5, {"eval/loss": math.inf})
    group.write(6, {"skip/batch": 6, "skip/loss": math.nan, "skip/gradient_norm": 3.0})
    group.write_audio(6, "preview/0", np.zeros(1600, np.float32), 16_000)
    group.write_image(6, "picture", np.zeros((4, 5), np.uint8))
    group.write_table(6, "table", ["a", "b"], [["x", 1]])
    group.close()
    assert "step 5/10  loss 1.5000  lr 1.00e-03  MFU 50.0%  data wait 25.0%  ETA 10s" in caplog.text
    assert "step 5  eval  loss inf" in caplog.text
    assert "step 6 (batch 6) skipped: loss nan, norm 3" in caplog.text
    (events,) = (tmp_path / "tensorboard").iterdir()
    for name in (b"train/nll_q0", b"preview/0/spectrogram", b"picture", b"table/text_summary"):
        assert name in events.read_bytes()
    assert b"eval/loss" not in events.read_bytes()  # not finite
    assert [line["step"] for line in read_metrics(tmp_path / METRICS_FILE)] == [5, 5, 6]


def test_a_new_tracker_is_one_class_and_one_entry(tmp_path, monkeypatch):
    class Memory(NoMedia):
        def __init__(self, workdir):
            self.lines = []

        def start(self, run_id, config, step):
            self.lines.append((run_id, config["name"], step))

        def write(self, step, values):
            self.lines.append((step, dict(values)))

        def close(self):
            self.lines.append("closed")

    monkeypatch.setitem(TRACKERS, "memory", Memory)
    *_, memory = make_trackers(tmp_path)
    group = TrackerGroup([memory])
    group.start("run-0", CONFIG, 3)
    group.write(4, {"x": 1.0})
    group.close()
    assert memory.lines == [("run-0", "run", 3), (4, {"x": 1.0}), "closed"]


def test_the_record_ends_a_run_and_tensorboard_does_not(tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("no directory")
    group = TrackerGroup(make_trackers(tmp_path))
    group.start("run-0", CONFIG, 0)
    group.write(1, {"train/loss": 1.0})
    (tmp_path / METRICS_FILE).unlink()
    with pytest.raises(OSError, match=METRICS_FILE):
        group.write(2, {"train/loss": 1.0})
    group.close()
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith("tensorboard: ")


def test_all_are_closed_whatever_one_raises():
    closed = []

    class Broken(NoMedia):
        def close(self):
            closed.append(self)
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        TrackerGroup([Broken(), Broken()]).close()
    assert len(closed) == 2


def test_a_workdir_keeps_its_run_id(tmp_path):
    first = run_id(tmp_path, "gpst")
    assert first.startswith("gpst-")
    assert run_id(tmp_path, "renamed") == first


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.4, "12s"), (187, "3m07s"), (3725, "1h02m"), (90000, "25h00m")]
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_spectrogram_shows_a_tone_at_its_frequency():
    rate = 16_000
    tone = 0.5 * np.sin(2 * np.pi * 4000 * np.arange(rate) / rate)
    image = spectrogram_image(tone, rate)
    assert image.dtype == np.uint8
    assert image.shape == (201, 98)  # 25 ms windows of 400 samples, every 10 ms
    assert (image.argmax(axis=0) == 200 - 100).all()  # 4 kHz is half way up
    assert spectrogram_image(np.zeros(10), rate).shape == (201, 1)
