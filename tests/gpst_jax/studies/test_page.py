"""A page says what the records allow, and equal records give equal bytes."""

import dataclasses
import re

import pytest
from toy_study import WORDS

from gpst_jax.evaluation.metrics.statistics import Estimate
from gpst_jax.studies import page, sentences


def render(study, records, root):
    page.write(study, "experiments/study_files/toy.py", records, root, None)
    return (root / "toy.md").read_text(), root / "toy.png"


def test_rendering_is_deterministic(study, records, tmp_path):
    text, plot = render(study, records, tmp_path / "1")
    again, second = render(study, dict(reversed(records.items())), tmp_path / "2")
    assert text == again
    assert plot.read_bytes() == second.read_bytes()
    assert plot.stat().st_size < 100_000
    assert "![Is b better than a?](toy.png)" in text


def test_the_page_has_values_differences_and_what_they_were_made_with(study, records, tmp_path):
    text, _ = render(study, records, tmp_path)
    assert re.search(r"\| a \| 3 \| \d+\.\d \[\d+\.\d, \d+\.\d\] \| 7 ", text)
    assert re.search(r"\| b - a \| \+\d+\.\d \[\+\d+\.\d, \+\d+\.\d\] \|  \|", text)
    assert "python -m experiments.study --study=experiments/study_files/toy.py" in text
    for word in ("2026-11-29", "2 cores of a test", "Python 3.11.0", "abc", "0" * 16):
        assert word in text


def test_a_study_without_results_says_not_run_and_what_it_costs(study, tmp_path):
    text, plot = render(study, {}, tmp_path)
    assert "**Not run.**" in text
    assert "6 of 6 cells and seeds, which train nothing" in text
    assert not plot.exists()


def test_parts_of_a_study_are_said_to_be_parts(study, records, tmp_path):
    some = {key: record for key, record in records.items() if key == ("a", 0)}
    text, _ = render(study, some, tmp_path)
    assert "5 of 6 cells and seeds" in text
    assert "b - a" not in text


@pytest.mark.parametrize(
    ("estimate", "seeds", "trained", "said", "unsaid"),
    [
        (Estimate(0.05, 0.01, 0.09, "seeds and speakers", 8), 3, True, "worse (3 seeds;", "single"),
        (Estimate(-0.05, -0.09, -0.01, "seeds and items", 8), 3, True, "better (3 seeds;", "sing"),
        (Estimate(0.05, -0.01, 0.09, "seeds and speakers", 8), 3, True, "no difference", "worse"),
        (Estimate(0.05, 0.01, 0.09, "speakers", 8), 1, True, "a single run of each", "seeds;"),
        (Estimate(0.05, 0.01, 0.09, "seeds and items", 8), 2, True, "single runs, 2", "2 seeds;"),
        (Estimate(0.05, 0.01, 0.09, "speakers", 8), 3, False, "a single run: one", "of each"),
        (Estimate(0.05, None, None, "items", 1), 1, True, "nothing follows", "worse"),
    ],
)  # fmt: skip
def test_a_sentence_says_what_the_interval_shows_and_no_more(
    estimate, seeds, trained, said, unsaid
):
    text = sentences.sentence("b", "a", WORDS, estimate, seeds, trained)
    assert said in text
    assert unsaid not in text


def test_a_figure_that_is_neither_good_nor_bad_is_not_judged():
    neutral = dataclasses.replace(WORDS, better="")
    text = sentences.sentence("b", "a", neutral, Estimate(0.05, 0.01, 0.09, "items", 4), 3, True)
    assert "higher (" in text
    assert "which is" not in text
