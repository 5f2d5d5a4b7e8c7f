"""Means, throughput and the metrics file."""

import json
import math
import time

import numpy as np
import pytest

from gpst_jax.parallel import chips
from gpst_jax.training import metrics


def test_means_weigh_by_count():
    means = metrics.Means()
    means.add({"nll": (10.0, 10), "rare": (0.0, 0)})
    means.add({"nll": (60.0, 20), "rare": (0.0, 0)})
    assert means.means() == {"nll": pytest.approx(70 / 30)}


def test_throughput(monkeypatch):
    clock = iter([0.0, 10.0, 10.0, 20.0, 20.0, 25.0, 25.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    rates = metrics.Throughput(flops_per_step=100.0, peak=1000.0)  # at 0 s
    rates.add({"tokens": 50, "audio_seconds": 7200.0}, wait=1.0)
    rates.add({"tokens": 150, "audio_seconds": 7200.0}, wait=1.0)
    assert rates.close_window() == {  # at 10 s
        "perf/tokens_per_s": pytest.approx(20.0),
        "perf/audio_hours_per_s": pytest.approx(0.4),
        "perf/step_s": pytest.approx(5.0),
        "perf/data_wait": pytest.approx(0.2),
        "perf/mfu": pytest.approx(0.02),
        "perf/goodput": pytest.approx(1.0),
    }
    assert rates.close_window() == {}  # at 20 s: nothing happened, nothing is counted
    rates.add({"tokens": 10, "audio_seconds": 0.0}, wait=0.0)
    rates.exclude(4.0)
    last = rates.close_window()  # at 25 s
    assert last["perf/tokens_per_s"] == pytest.approx(10.0)
    assert last["perf/goodput"] == pytest.approx(11 / 25)
    assert rates.totals()["perf/tokens_per_s"] == pytest.approx(210 / 11)


def test_peaks():
    assert chips.peak_flops("NVIDIA H200") == 989e12
    assert chips.peak_flops("TPU v5 lite") == 197e12
    assert chips.peak_flops("TPU v5p") == 459e12
    assert chips.peak_flops("cpu") is None


def test_file_holds_null_for_what_is_not_finite(tmp_path):
    writer = metrics.MetricsWriter(tmp_path)
    writer.write(1, {"train/loss": math.nan, "train/nll": 2})
    writer.close()
    (line,) = (tmp_path / metrics.METRICS_FILE).read_text().splitlines()
    entry = json.loads(line, parse_constant=pytest.fail)
    assert (entry["step"], entry["train/loss"], entry["train/nll"]) == (1, None, 2.0)
    assert list((tmp_path / "tensorboard").iterdir())


def test_resume_drops_later_lines_and_a_new_run_drops_all(tmp_path):
    writer = metrics.MetricsWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write(step, {"x": step})
    writer.close()
    for restored, expected in ((2, [1, 2]), (0, [])):
        metrics.MetricsWriter(tmp_path, restored).close()
        entries = metrics.read_metrics(tmp_path / metrics.METRICS_FILE)
        assert [entry["step"] for entry in entries] == expected


def test_damaged_file_is_named(tmp_path):
    path = tmp_path / metrics.METRICS_FILE
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        metrics.read_metrics(path)


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.4, "12s"), (187, "3m07s"), (3725, "1h02m"), (90000, "25h00m")]
)
def test_durations(seconds, text):
    assert metrics.format_duration(seconds) == text


def test_spectrogram_shows_a_tone_at_its_frequency():
    rate = 16_000
    tone = 0.5 * np.sin(2 * np.pi * 4000 * np.arange(rate) / rate)
    image = metrics.spectrogram_image(tone, rate)
    assert image.dtype == np.uint8
    assert image.shape == (201, 98)  # 25 ms windows of 400 samples, every 10 ms
    assert (image.argmax(axis=0) == 200 - 100).all()  # 4 kHz is half way up
    assert metrics.spectrogram_image(np.zeros(10), rate).shape == (201, 1)
