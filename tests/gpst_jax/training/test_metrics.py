"""Means, throughput and the metrics file."""

import time

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
