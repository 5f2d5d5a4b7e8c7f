import html.parser
import json
import re

import numpy as np
import pytest

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.metrics import registry
from gpst_jax.evaluation.report import page as report
from gpst_jax.evaluation.report import plots
from gpst_jax.evaluation.suite import EvaluationConfig, evaluate

_VOID = {"meta", "img", "br", "wbr", "source", "link", "input", "hr"}


class _Page(html.parser.HTMLParser):
    """Collects what a page loads, and checks that its tags nest."""

    def __init__(self):
        super().__init__()
        self.loaded, self.open, self.tags, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [v for k, v in attrs if k in ("src", "srcset", "href", "data")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def rendered(toy_settings, toy_samples, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("librosa")
    config = EvaluationConfig(registry.configure(**toy_settings), processes=1, resamples=50)
    results, items = evaluate(toy_samples, config, show_progress=False)
    results["train"] = {"steps": 7}
    metrics = tmp_path / "metrics.jsonl"
    rows = [{"step": s, "train/nll_semantic": 5 / s, "eval/nll_acoustic_q0": 6 / s} for s in (1, 2)]
    metrics.write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 3, "tra', encoding="utf-8")
    output = tmp_path / "report.html"
    report.render_report(
        results, toy_samples, metrics, output, "Title <b>", items=items, summary="What was run"
    )
    page = _Page()
    page.feed(output.read_text(encoding="utf-8"))
    return page, results, output


def test_page_is_self_contained_and_well_formed(rendered):
    page, _, output = rendered
    assert page.open == []
    assert page.loaded
    assert all(link.startswith("data:") for link in page.loaded)
    source = output.read_text(encoding="utf-8")
    assert "<script" not in source
    assert not re.search(r"https?://", source)
    assert "Title &lt;b&gt;" in source
    assert output.stat().st_size < report.MAX_BYTES


def test_page_shows_every_recipe_with_its_interval(rendered):
    page, results, _ = rendered
    text = "".join(page.text)
    for recipe_id in results["recipes"]:
        assert recipe_id in text
    row = results["modes"]["speaker_transfer"]["wer/toy"]
    assert f"{100 * row['value']:.1f} %" in text
    assert f"[{100 * row['ci95'][0]:.1f}, {100 * row['ci95'][1]:.1f}]" in text
    assert "What was run" in text


def test_page_plays_the_sounds_and_says_why_one_is_missing(rendered):
    page, _, _ = rendered
    assert page.tags.count("audio") >= 8
    assert page.tags.count("picture") == 1  # the loss curves
    assert "recognised: " in "".join(page.text)


def test_results_without_samples_or_curves_still_make_a_page(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("librosa")
    empty = {"modes": {}, "ceilings": {}, "floors": {}, "differences": {}, "recipes": {}}
    report.render_report(empty, None, None, tmp_path / "r.html", "Nothing")
    source = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Nothing" in source
    assert "<table" not in source


def test_what_could_not_be_measured_is_said(rendered):
    _, results, output = rendered
    results["left_out"] = ["a recogniser of <b>its own</b> is left out"]
    report.render_report(results, None, None, output, "Less")
    assert "a recogniser of &lt;b&gt;its own" in output.read_text(encoding="utf-8")
    results["left_out"] = []


def test_failed_samples_are_listed_and_columns_without_rows_are_not(rendered):
    page, results, output = rendered
    assert "1 of 12 failed (1 no such file)" in "".join(page.text)
    results["failed"] = {}
    for section in ("modes", "ceilings", "floors", "differences"):
        for rows in results[section].values():
            rows.pop("mos/toy", None)
            rows.pop("sim-o/toy", None)
    for rows in results["differences"].values():
        rows["wer/toy"] = {"value": None, "ci95": None, "n": 0, "reason": "none in common"}
    report.render_report(results, None, None, output, "Less")
    source = output.read_text(encoding="utf-8")
    assert "Failed samples" not in source
    assert "Paired differences" not in source
    assert "mos/<wbr>toy" not in source
    assert "wer/<wbr>toy" in source


def test_corrupt_metrics_are_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"loss": 1}\n{"step": 2}\n', encoding="utf-8")
    with pytest.raises(UserError, match="line 1"):
        report.read_metrics(path)
    with pytest.raises(UserError, match="cannot be read"):
        report.read_metrics(tmp_path / "none.jsonl")


def test_spectrogram_puts_a_tone_at_its_frequency():
    pytest.importorskip("librosa")
    time = np.arange(8000) / 16000
    low = plots.log_mel(np.sin(2 * np.pi * 200 * time), 16000).mean(axis=1)
    high = plots.log_mel(np.sin(2 * np.pi * 6000 * time), 16000).mean(axis=1)
    assert low.argmax() < 10
    assert high.argmax() > 60
    assert low.max() <= 0
