"""A study of two cells with made-up records."""

import numpy as np
import pytest

from gpst_jax.studies.definition import Call, Cell, Comparison, Study
from gpst_jax.studies.figures import RecipeFigure, TrainingFigure

WORDS = RecipeFigure("words", "word errors, %", "wer/x", "transfer", 100.0, 1, "lower")
EVALUATE = Call("evaluate", "experiments.evaluate", ("--samples={cell}/samples",))
SIZE = TrainingFigure("parameters", "parameters", "parameters")


def score(pairs, over="speakers"):
    """A figure's score from (numerator, denominator) by unit."""
    total = np.sum(list(pairs.values()), axis=0)
    return {
        "value": float(total[0] / total[1]),
        "ci95": [0.0, 1.0],
        "n": len(pairs),
        "units": {"over": over, "sums": {name: list(pair) for name, pair in pairs.items()}},
    }


@pytest.fixture
def study() -> Study:
    return Study(
        name="toy",
        question="Is b better than a?",
        cells=tuple(Cell(name, calls=(EVALUATE,)) for name in "ab"),
        figures=(WORDS, SIZE),
        seeds=(0, 1, 2),
        comparisons=(Comparison("a", ("b",)),),
    )


@pytest.fixture
def records() -> dict:
    random = np.random.default_rng(0)
    made = {}
    for seed in range(3):
        for cell, shift in (("a", 0.0), ("b", 4.0)):
            pairs = {f"s{i}": (float(random.integers(5, 9) + shift), 40.0) for i in range(8)}
            made[cell, seed] = {
                "scores": {
                    "words": score(pairs),
                    "parameters": {"value": 7.0, "ci95": None, "n": 1},
                },
                "date": "2026-11-29",
                "machine": "2 cores of a test",
                "versions": {"Python": "3.11.0"},
                "commit": "abc",
                "inputs": {"run": "0" * 64},
                "seconds": {"evaluate": 60.0},
                "cost": {"training_flops": 0.0, "seconds_of_training": None},
            }
    return made
