"""Scores of spoken dialogues: whether the answer is right, and where the chain broke.

A judge maps a question, the expected answer and the answer that was heard to a score in [0, 1].
The offline one asks for the very words; a judge that understands language (the paper used one that
scores from 1 to 5) is registered under a name of its own.
"""

from collections.abc import Callable, Sequence
from typing import Any

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.metrics import statistics, wer
from gpst_jax.samples.manifest import Sample

Judge = Callable[[str, str, str | None], float]


def same_words(question: str, expected: str, heard: str | None) -> float:
    """1 where the words that were heard are those expected, in order."""
    del question
    return float(heard is not None and heard.split() == expected.split())


JUDGES: dict[str, Judge] = {"same-words": same_words}


def get_judge(name: str) -> Judge:
    """The judge of that name; raises UserError where there is none."""
    if name not in JUDGES:
        raise UserError(f"judge {name!r} is unknown; choose from {', '.join(JUDGES)}")
    return JUDGES[name]


def answers(
    samples: Sequence[Sample],
    heard: Sequence[str | None],
    judge: str,
    *,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Share of right answers.

    Args:
        samples: of a dialogue condition, with questions and expected answers.
        heard: what a recogniser made of each spoken answer; None where there is no sound.
        judge: name of the judge.
        resamples: bootstrap resamples, where the judge's scores are no shares.
        seed: of the bootstrap.

    Returns:
        A row with `value`, `ci95`, `n`, and the same for the answer that the model wrote
        (`written`), with word error rates of the chain: of what it understood of the question
        (`question_transcript`), and of its speech against what it wrote (`speech_from_text`).
    """
    score = get_judge(judge)

    def share(texts: Sequence[str | None]) -> dict[str, Any]:
        scores = [
            score(sample.question or "", sample.text or "", text)
            for sample, text in zip(samples, texts, strict=True)
        ]
        estimate = (
            statistics.share(round(sum(scores)), len(scores))
            if set(scores) <= {0.0, 1.0}
            else statistics.mean(scores, resamples=resamples, seed=seed)
        )
        return {"value": estimate.value, "ci95": estimate.ci95, "n": len(scores)}

    def errors(pairs: Sequence[tuple[str, str | None]]) -> dict[str, Any]:
        counts = [wer.count_errors(reference, text) for reference, text in pairs if reference]
        if not counts:
            return statistics.not_available("no words to compare with")
        return wer.summarise(counts, None, resamples=resamples, seed=seed)

    written = [sample.answer_text for sample in samples]
    return {
        "judge": judge,
        **share(heard),
        "written": share(written),
        "question_transcript": errors([(s.question or "", s.question_transcript) for s in samples]),
        "speech_from_text": errors(
            [(text or "", found) for text, found in zip(written, heard, strict=True)]
        ),
    }
