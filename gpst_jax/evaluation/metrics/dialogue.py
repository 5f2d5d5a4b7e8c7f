"""Spoken dialogues: whether the answer is right, and which link of the chain failed.

A judge maps a question, the expected answer and the recognised answer to a score in [0, 1]. The
offline one asks for the same words; a language model as judge (the paper's scores from 1 to 5) is
added to `JUDGES` under a name of its own.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.metrics import statistics, wer
from gpst_jax.evaluation.metrics.base import Inputs, Row, Scores, setting
from gpst_jax.evaluation.metrics.display import Table, items_of, proportion_cell
from gpst_jax.evaluation.transcripts.recipe import TranscriptRecipe
from gpst_jax.samples.manifest import Sample
from gpst_jax.samples.texts import text_kind

Judge = Callable[[str, str, str | None], float]


def same_words(question: str, expected: str, heard: str | None) -> float:
    """1 where the recognised words are the expected ones, in order."""
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
    normalise: Callable[[str], str] = str,
) -> Row:
    """Fraction of right answers.

    Args:
        samples: of a dialogue condition, with questions and expected answers.
        heard: transcript of each spoken answer; None for a failed file.
        judge: name of the judge.
        resamples: bootstrap resamples, for judges with scores between 0 and 1.
        seed: of the bootstrap.
        normalise: of the recogniser's recipe, which `heard` has been through.

    Returns:
        A row with `value`, `ci95`, `n`, and the same for the answer that the model wrote
        (`written`), with word error rates of the chain: of the question as the model understood it
        (`question_transcript`), and of its speech against what it wrote (`speech_from_text`).
    """
    score = get_judge(judge)
    speakers = [sample.speaker for sample in samples]
    clusters = statistics.usable(speakers)
    if not samples:
        return {"judge": judge} | statistics.not_available("no transcripts")

    def fraction(texts: Sequence[str | None]) -> Row:
        scores = [
            score(sample.question or "", normalise(sample.text or ""), text)
            for sample, text in zip(samples, texts, strict=True)
        ]
        estimate = (
            statistics.proportion([value == 1 for value in scores], clusters=clusters)
            if set(scores) <= {0.0, 1.0}
            else statistics.mean(scores, clusters=clusters, resamples=resamples, seed=seed)
        )
        return statistics.row(estimate, len(scores))

    def errors(pairs: Sequence[tuple[str, str | None]]) -> Row:
        found = [(*pair, who) for pair, who in zip(pairs, speakers, strict=True) if pair[0]]
        if not found:
            return statistics.not_available("no words to compare with")
        counts = [wer.count_errors(reference, text) for reference, text, _ in found]
        voices = [who for *_, who in found]
        return wer.summarise(counts, voices, resamples=resamples, seed=seed)

    written = [
        None if sample.answer_text is None else normalise(sample.answer_text) for sample in samples
    ]
    return {
        "judge": judge,
        **fraction(heard),
        "failed": sum(text is None for text in heard),
        "written": fraction(written),
        "question_transcript": errors([(s.question or "", s.question_transcript) for s in samples]),
        "speech_from_text": errors(
            [(text or "", spoken) for text, spoken in zip(written, heard, strict=True)]
        ),
    }


@dataclass(frozen=True)
class Answers(wer.Transcripts):
    """Fraction of spoken questions with a right answer."""

    kind: ClassVar[str] = "dialogue"

    judge: str = setting("same-words")

    def __post_init__(self) -> None:
        super().__post_init__()
        get_judge(self.judge)

    def score(self, inputs: Inputs) -> Scores:
        """One row for each condition with questions."""
        scores = Scores()
        dialogues = [n for n, group in inputs.conditions.items() if any(s.question for s in group)]
        heard = self.transcribe(inputs) if dialogues else None
        for name in dialogues:
            if heard is None or heard.pairs[name]:
                continue
            row: Row = {"judge": self.judge}
            if not heard.samples[name]:
                row |= heard.missing(name, inputs.conditions[name])
            else:
                row = answers(
                    heard.samples[name],
                    heard.hypotheses(name),
                    self.judge,
                    normalise=functools.partial(_normalised, heard.recipe),
                    **inputs.bootstrap,
                )
            scores.rows[name, self.side_key(name)] = row
        return scores

    @classmethod
    def side_key(cls, condition: str) -> str:
        """The same in every condition."""
        del condition
        return "answers_correct"

    @classmethod
    def side_table(cls, rows: Sequence[tuple[str, Row]]) -> Table:
        """Answers as heard and as written, and the word error rates of the chain."""
        lines = []
        for name, row in rows:
            cells = [proportion_cell(row)]
            if row["value"] is not None:
                cells.append(proportion_cell(row["written"]))
                links = ("question_transcript", "speech_from_text")
                cells += [cls.cell(row[link]) for link in links]
            lines.append((name, cells))
        return Table(
            title="Right answers",
            caption="Share of spoken questions that are answered rightly, by the judge "
            f"{rows[0][1]['judge']}: in what a recogniser hears, and in what the model wrote "
            "before it spoke. Beside it the word errors of the chain: of the question as the "
            "model understood it, and of its speech against its own text.",
            columns=("as heard", "as written", "question understood", "speech of text"),
            rows=lines,
        )

    @classmethod
    def side_lines(cls, rows: Sequence[tuple[str, Row]]) -> list[str]:
        """One line for each condition."""
        return [
            f"{name}, right answers: {row['reason']}"
            if row["value"] is None
            else f"{name}, right answers: {row['value']:.0%} as heard (n = {items_of(row)}), "
            f"{row['written']['value']:.0%} as written ({row['judge']})"
            for name, row in rows
        ]


def _normalised(recipe: TranscriptRecipe, text: str) -> str:
    """The text by the recipe's rules; as it is where they refuse it, so that it is wrong."""
    try:
        return recipe.reference(text, text_kind(text))
    except UserError:
        return text
