"""A new kind of metric is one class and its registration."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from gpst_jax.evaluation.metrics import registry, statistics
from gpst_jax.evaluation.metrics.base import Floor, Inputs, Metric, Scores, setting
from gpst_jax.evaluation.metrics.display import Table, proportion_cell
from gpst_jax.evaluation.metrics.recipe import Measurement, Recipe
from gpst_jax.evaluation.report import page, tables
from gpst_jax.evaluation.suite import EvaluationConfig, evaluate


def _load_peak():
    return lambda wav: float(np.abs(wav).max())


PEAK = Recipe(
    id="peak/toy",
    kind="peak",
    model="largest absolute sample",
    normalisation="none",
    aggregation="mean over items; a failed file scores 0",
    measurement=Measurement("toy/peak", 1, 16000, (), _load_peak),
)


@dataclass(frozen=True)
class Peak(Metric):
    kind: ClassVar[str] = "peak"
    prefix: ClassVar[str] = "peak/"
    recipes: ClassVar[dict[str, Recipe]] = {PEAK.id: PEAK}
    item_fields: ClassVar[tuple[str, ...]] = ("peak",)
    floor_names: ClassVar[Mapping[str, str]] = {"silence": "digital silence"}
    difference_note: ClassVar[str] = "Peaks in thousandths of full scale."

    peak: str = PEAK.id
    peak_items: int = setting(100, "Items for peaks per condition.")

    def selected(self):
        return [self.recipe(self.peak)]

    def score(self, inputs: Inputs) -> Scores:
        scores = Scores()
        chosen = inputs.first(self.peak_items)
        files = [s.audio for samples in chosen.values() for s in samples]
        outcomes = inputs.measure(PEAK.measurement, files)
        for name, samples in chosen.items():
            values = {s.id: outcomes[s.audio].value or 0.0 for s in samples}
            estimate = statistics.mean(list(values.values()), **inputs.bootstrap)
            scores.rows[name, PEAK.id] = statistics.row(estimate, len(values))
            scores.rows[name, "clipped"] = statistics.row(
                statistics.share(sum(v >= 1 for v in values.values()), len(values)), len(values)
            )
            scores.values[PEAK.id, name] = values
            scores.items |= {(name, id_): {"peak": value} for id_, value in values.items()}
        silence = statistics.row(statistics.mean([0.0]), 1)
        scores.floors.append(Floor("silence", PEAK.id, silence))
        return scores

    @classmethod
    def number(cls, value, signed=False):
        return f"{1000 * value:{'+' if signed else ''}.0f} ‰"

    @classmethod
    def item_note(cls, item):
        return "" if item.get("peak") is None else f"peak {cls.number(item['peak'])}"

    @classmethod
    def side_key(cls, condition):
        return "clipped"

    @classmethod
    def side_table(cls, rows):
        lines = [(name, [proportion_cell(row)]) for name, row in rows]
        return Table("Clipping", "Fraction of clipped files.", ("clipped",), lines)

    @classmethod
    def side_lines(cls, rows):
        return [f"{name}, clipped: {row['value']:.0%}" for name, row in rows]


@pytest.fixture
def evaluated(monkeypatch, toy_settings, toy_samples):
    monkeypatch.setattr(registry, "METRICS", (*registry.METRICS, Peak))
    metrics = registry.configure(**toy_settings, peak_items=10)
    config = EvaluationConfig(metrics, processes=1, resamples=50)
    return evaluate(toy_samples, config, show_progress=False)


def test_its_rows_are_in_every_section_of_the_results(evaluated):
    results, items = evaluated
    json.dumps(results, allow_nan=False)
    row = results["ceilings"]["recording"][PEAK.id]
    assert row["n"] == 10
    peaks = [item["peak"] for item in items["recording"] if item["peak"] is not None]
    assert row["value"] == pytest.approx(np.mean(peaks))
    assert results["modes"]["speaker_transfer"]["clipped"]["value"] == 0
    assert results["floors"]["silence"][PEAK.id]["value"] == 0
    assert results["differences"]["codec - recording"][PEAK.id]["n"] == 10
    assert results["recipes"][PEAK.id]["kind"] == "peak"
    assert results["settings"]["peak_items"] == 10
    assert results["settings"]["peak"] == PEAK.id
    assert "toy/peak" in results["timings_s"]
    assert sum(item["peak"] is not None for item in items["codec"]) == 10


def test_it_is_printed(evaluated, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    results, _ = evaluated
    tables.print_results(results)
    printed = capsys.readouterr().out
    value = results["ceilings"]["recording"][PEAK.id]["value"]
    assert f"{1000 * value:.0f} ‰" in printed
    for text in (PEAK.id, "digital silence", "speaker transfer, clipped: 0%"):
        assert text in printed


def test_it_is_on_the_page(evaluated, toy_samples, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("librosa")
    results, items = evaluated
    page.render_report(results, toy_samples, None, tmp_path / "r.html", "Toy", items=items)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    value = results["modes"]["speaker_transfer"][PEAK.id]["value"]
    assert f"<b>{1000 * value:.0f} ‰</b>" in text
    for part in ("digital silence", "<h2>Clipping</h2>", Peak.difference_note, "peak 7"):
        assert part in text
