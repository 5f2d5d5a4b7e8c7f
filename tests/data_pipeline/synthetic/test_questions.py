"""Questions have the answers that their words ask for, and those held out are not trained on."""

import numpy as np
import pytest

from data_pipeline.synthesize_corpus import (
    TRAIN_VOICES,
    UNSEEN_VOICES,
    CorpusConfig,
    plan_corpus,
    plan_dialogues,
)
from data_pipeline.synthetic.questions import DIGITS, KINDS, is_open, sample_question


def _digits(text: str) -> list[int]:
    return [DIGITS.index(word) for word in text.split() if word in DIGITS]


def _expected(kind: str, text: str) -> list[int]:
    given = _digits(text)
    if kind == "count_up":
        return list(range(given[0] + 1, given[0] + 4))
    if kind == "count_down":
        return list(range(given[0] - 1, given[0] - 4, -1))
    if kind == "backwards":
        return list(reversed(given))
    return given


@pytest.mark.parametrize("kind", KINDS)
def test_answers_follow_from_the_words(kind):
    rng = np.random.default_rng(0)
    for _ in range(200):
        question = sample_question(rng, kind)
        assert _digits(question.answer) == _expected(kind, question.text)
        assert len(question.answer.split()) == 3


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="count_up"):
        sample_question(np.random.default_rng(0), "riddle")


def test_plan_of_dialogues_holds_questions_out():
    config = CorpusConfig(questions_per_voice=100)
    found = plan_dialogues(config)
    sizes = {
        split: sum(question.split == split for _, question, _ in found)
        for split in ("train", "valid", "unseen")
    }
    expected = (100 * len(TRAIN_VOICES), 10 * len(TRAIN_VOICES), 34 * len(UNSEEN_VOICES))
    assert tuple(sizes.values()) == expected
    texts = {split: set() for split in sizes}
    for _, question, answer in found:
        assert question.voice == answer.voice
        texts[question.split].add(question.text)
    shared = texts["train"] & (texts["valid"] | texts["unseen"])
    # Only what there are seven of may be asked in training too.
    assert all(text.startswith("count") for text in shared)
    assert len({id_ for id_, _, _ in found}) == len(found)


def test_questions_leave_the_rest_of_the_corpus_as_it_was():
    plain, asking = plan_corpus(CorpusConfig()), plan_corpus(CorpusConfig(questions_per_voice=5))
    assert asking[: len(plain)] == plain
    # 50 of training, 10 of validation, 4 of unseen voices; each with its answer.
    assert len(asking) - len(plain) == 2 * (50 + 10 + 4)
    assert len({item.path for item in asking}) == len(asking)


def test_only_closed_kinds_may_repeat():
    rng = np.random.default_rng(1)
    closed = {kind for kind in KINDS if not is_open(sample_question(rng, kind))}
    assert closed == {"count_up", "count_down"}
