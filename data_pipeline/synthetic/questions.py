"""Toy questions with three digits as answers, for spoken dialogues that can be scored.

The answer must be inferred from the question, and a small digit recogniser can score a spoken
answer.
"""

from typing import NamedTuple

import numpy as np

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
KINDS = ("count_up", "count_down", "backwards", "repeat")


class Question(NamedTuple):
    """A question and its answer in words."""

    kind: str
    text: str
    answer: str


def sample_question(rng: np.random.Generator, kind: str) -> Question:
    """Samples a question of one of KINDS.

    `count_up` and `count_down` have one digit, and seven questions each; the others have any three
    digits.
    """
    if kind == "count_up":
        first = int(rng.integers(0, 7))
        return _question(kind, "count up from {}", [first], [first + step for step in (1, 2, 3)])
    if kind == "count_down":
        first = int(rng.integers(3, 10))
        return _question(kind, "count down from {}", [first], [first - step for step in (1, 2, 3)])
    given = rng.integers(0, 10, 3).tolist()
    if kind == "backwards":
        return _question(kind, "say {} backwards", given, given[::-1])
    if kind == "repeat":
        return _question(kind, "repeat after me {}", given, given)
    raise ValueError(f"unknown kind of question {kind!r}, choose from {', '.join(KINDS)}")


def is_open(question: Question) -> bool:
    """Whether its kind has enough questions to hold some out of training."""
    return question.kind not in ("count_up", "count_down")


def _question(kind: str, frame: str, given: list[int], answer: list[int]) -> Question:
    return Question(kind, frame.format(_spoken(given)), _spoken(answer))


def _spoken(digits: list[int]) -> str:
    return " ".join(DIGITS[digit] for digit in digits)
