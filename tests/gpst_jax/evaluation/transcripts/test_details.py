"""What a word error rate hides: kinds of errors, means, and texts that break off or run on."""

import pytest

from gpst_jax.evaluation.metrics import wer
from gpst_jax.evaluation.transcripts import alignment

BOOTSTRAP = {"resamples": 200, "seed": 0}


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("the cat sat on the mat", "the cat sat on the mat", (0, 0, 0)),
        ("the cat sat on the mat", "the cat sit on mat", (1, 1, 0)),
        ("the cat sat", "oh the big cat sat down", (0, 0, 3)),
        ("a b c d", "b c d e", (0, 1, 1)),
        ("one", "two three", (1, 0, 1)),
    ],
)
def test_edit_counts_worked_by_hand(reference, hypothesis, expected):
    counts = alignment.count_errors(reference, hypothesis)
    assert (counts.substitutions, counts.deletions, counts.insertions) == expected


@pytest.mark.parametrize(
    ("reference", "hypothesis", "runaway", "unfinished"),
    [
        ("one two three four", "one two three four", False, False),
        ("one two three four", "one two " * 10, True, False),
        ("one two three four", "one two three four five six seven", False, False),
        ("one", "one two three", False, False),  # a few words are no runaway
        ("one two three four", "one two", False, True),
        ("one two three four", "one two three", False, False),  # a single word may be misheard
        (" ".join("abcdefghijklmnopqrst"), " ".join("abcdefghijklmnopqr"), False, False),
        (" ".join("abcdefghijklmnopqrst"), " ".join("abcdefghijklmnop"), False, True),
        ("one two three four", "three four", False, False),  # its beginning is missing
        ("one two three four", "", False, False),  # empty is a share of its own
    ],
)
def test_texts_that_run_on_or_break_off(reference, hypothesis, runaway, unfinished):
    counts = alignment.count_errors(reference, hypothesis)
    assert (counts.runaway, counts.unfinished) == (runaway, unfinished)


def test_a_row_has_every_rate_and_share_with_its_interval():
    texts = [
        ("one two three four", "one two three four"),  # 0 / 4
        ("one two three four", "one two " * 10),  # runaway: 18 / 4
        ("one two", None),  # 2 / 2
        ("one two three four five", "one two"),  # unfinished: 3 / 5
        ("one two three", "four two three"),  # 1 / 3
    ]
    counts = [alignment.count_errors(*pair) for pair in texts]
    errors = [c.errors for c in counts]
    row = alignment.summarise(counts, list("abcde"), **BOOTSTRAP)
    assert errors[0] == 0
    assert errors[2:] == [2, 3, 1]
    assert row["corpus"] == row["value"] == pytest.approx(sum(errors) / 18)
    assert row["mean"] == pytest.approx((0 + errors[1] / 4 + 1 + 0.6 + 1 / 3) / 5)
    assert row["median"] == pytest.approx(0.6)
    for name in ("share_runaway", "share_unfinished", "share_empty"):
        assert row[name] == pytest.approx(1 / 5)
    assert row["failed"] == 1
    assert row["interval"] == {"over": "speakers", "units": 5, "method": "Student's t"}
    assert row["ci95"] == row["ci95_speakers"] == row["corpus_ci95"]
    for name in ("corpus", "mean", "median"):
        low, high = row[f"{name}_ci95"]
        assert low <= row[name] <= high
    few = alignment.summarise(counts, list("aabba"), **BOOTSTRAP)
    assert few["interval"]["over"] == "items"
    assert few["ci95"] == few["ci95_items"]
    assert few["ci95_speakers"] is not None


def test_items_stored_by_an_older_version_are_read():
    stored = {"words": 4, "substitutions": 1, "deletions": 0, "insertions": 0}
    stored |= {"empty": False, "failed": False}
    further = {"wer/b": {"transcript": "x", "errors": stored | {"unknown": 1}}}
    items = [
        {"id": "u0", "errors": stored, "further": further},
        {"id": "u1", "errors": None, "further": None},
    ]
    main = wer.WordErrors.stored("wer/a", items, {"wer": ["wer/a", "wer/b"]})
    assert list(main) == ["u0"]
    assert main["u0"].errors == 1
    assert wer.WordErrors.stored("wer/b", items, {"wer": ["wer/a", "wer/b"]}) == main
    assert wer.WordErrors.stored("wer/a", items, {"wer": "wer/a"}) == main
