import copy
import html.parser
import json
import re

import numpy as np
import pytest

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.metrics import registry
from gpst_jax.evaluation.report import distributions, plots, training
from gpst_jax.evaluation.report import page as report
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


@pytest.fixture(scope="module")
def rendered(toy_settings, toy_samples_of_module, tmp_path_factory):
    toy_samples, tmp_path = toy_samples_of_module, tmp_path_factory.mktemp("page")
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
    assert page.tags.count("picture") == 3  # items, speakers and loss curves
    assert "recognised: " in "".join(page.text)


def test_results_without_samples_or_curves_still_make_a_page(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("librosa")
    empty = {"modes": {}, "ceilings": {}, "floors": {}, "differences": {}, "recipes": {}}
    report.render_report(empty, None, None, tmp_path / "r.html", "Nothing")
    source = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Nothing" in source
    assert "<table" not in source


def test_what_could_not_be_measured_is_said(rendered, tmp_path):
    results, output = copy.deepcopy(rendered[1]), tmp_path / "r.html"
    results["left_out"] = ["a recogniser of <b>its own</b> is left out"]
    report.render_report(results, None, None, output, "Less")
    assert "a recogniser of &lt;b&gt;its own" in output.read_text(encoding="utf-8")


def test_failed_samples_are_listed_and_columns_without_rows_are_not(rendered, tmp_path):
    page, results, output = rendered[0], copy.deepcopy(rendered[1]), tmp_path / "r.html"
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
        training.read_metrics(path)
    with pytest.raises(UserError, match="cannot be read"):
        training.read_metrics(tmp_path / "none.jsonl")


def test_spectrogram_puts_a_tone_at_its_frequency():
    pytest.importorskip("librosa")
    time = np.arange(8000) / 16000
    low = plots.log_mel(np.sin(2 * np.pi * 200 * time), 16000).mean(axis=1)
    high = plots.log_mel(np.sin(2 * np.pi * 6000 * time), 16000).mean(axis=1)
    assert low.argmax() < 10
    assert high.argmax() > 60
    assert low.max() <= 0


def test_the_tables_are_beside_the_page_as_markdown(rendered):
    _, results, output = rendered
    text = output.with_suffix(".md").read_text(encoding="utf-8")
    assert text.startswith("# Title \\<b\\>\n\nWhat was run\n")
    row = results["modes"]["speaker_transfer"]["wer/toy"]
    assert f"{100 * row['value']:.1f} %" in text
    for part in ("## Ceilings", "## Paired differences", "## Recipes", "Word errors in detail"):
        assert part in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.count("|") - line.count("\\|") >= 3 for line in lines)
    widths = {}
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("| --- "):
            widths[before] = line.count("|")
            assert before.count("|") == line.count("|")


def test_kinds_of_errors_and_shares_are_on_the_page(rendered):
    page, _, _ = rendered
    text = "".join(page.text)
    assert "Word errors in detail" in text
    for column in ("corpus", "mean", "median", "runaway", "unfinished"):
        assert column in text
    assert "Items and speakers" in text
    assert "p = " in text


def test_charts_of_many_speakers_show_the_worst():
    pytest.importorskip("matplotlib")
    errors = {"words": 4, "deletions": 0, "insertions": 0}
    items = {
        "codec": [
            {"id": str(n), "speaker": f"s{n}", "errors": errors | {"substitutions": n % 5}}
            for n in range(distributions.SPEAKERS + 10)
        ]
    }
    assert distributions._worst({"codec": {"a": 1.0, "b": 2.0}}, True) == ["b", "a"]
    section = distributions.distributions_section(items, "wer/<toy>")
    assert section.count("<picture>") == 2
    assert "wer/&lt;toy&gt;" in section
    assert distributions.distributions_section({"codec": [{"id": "0", "errors": None}]}) == ""
