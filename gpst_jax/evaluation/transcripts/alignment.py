"""Alignment counts of recognised text, and their corpus aggregate.

A corpus error rate is sum(S + D + I) / sum(reference words). An utterance whose file is missing or
cannot be decoded counts as all of its words deleted; it is never left out. Left out, and counted,
are references without words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpst_jax.evaluation.metrics import statistics
from gpst_jax.evaluation.metrics.base import Row


@dataclass(frozen=True)
class ErrorCounts:
    """Alignment of one utterance."""

    words: int  # of the reference
    substitutions: int
    deletions: int
    insertions: int
    empty: bool  # the hypothesis has no words
    failed: bool = False  # the file could not be read

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions


def count_errors(reference: str, hypothesis: str | None) -> ErrorCounts:
    """Aligns normalised texts; a hypothesis of None (a failed file) deletes every word."""
    words = len(reference.split())
    recognised = len((hypothesis or "").split())
    if hypothesis is None or not recognised or not words:
        return ErrorCounts(words, 0, words, recognised, not recognised, hypothesis is None)
    import jiwer

    output = jiwer.process_words(reference, hypothesis)
    return ErrorCounts(words, output.substitutions, output.deletions, output.insertions, False)


def count_pair_errors(transcripts: Sequence[tuple[str | None, str | None]]) -> list[ErrorCounts]:
    """Aligns the second rendition of each pair with the transcript of the first.

    There is no reference text. When the first is empty the second serves as reference, all of it
    deleted. When both are empty, the pair counts as a deleted reference of the mean length of the
    others, so that silence never counts as agreement.
    """
    usable = [(a, b) if a else (b, a) for a, b in transcripts]
    lengths = [len(a.split()) for a, _ in usable if a]
    fallback = max(1, round(sum(lengths) / len(lengths))) if lengths else 1
    return [
        count_errors(a, b) if a else ErrorCounts(fallback, 0, fallback, 0, True, None in pair)
        for (a, b), pair in zip(usable, transcripts, strict=True)
    ]


def summarise(
    counts: Sequence[ErrorCounts], speakers: Sequence[str] | None, *, resamples: int, seed: int
) -> Row:
    """The corpus word error rate of a condition, with what a single number hides.

    Returns:
        value, ci95 (utterances resampled), ci95_speakers (speakers resampled; None with fewer
        than two, absent without speakers), n utterances, reference words, S, D and I, mean and
        median over utterances, share_above_half, share_empty, and the number of failed files.
        Utterances without reference words are not among them: `n_empty` counts them.
    """
    without = sum(not count.words for count in counts)
    apart = {"n_empty": without} if without else {}
    if speakers is not None:
        speakers = [s for s, count in zip(speakers, counts, strict=True) if count.words]
    counts = [count for count in counts if count.words]
    errors = np.array([count.errors for count in counts])
    words = np.array([count.words for count in counts])
    if not counts:
        return statistics.not_available("reference transcripts hold no words") | apart
    estimate = statistics.ratio(errors, words, resamples=resamples, seed=seed)
    ci95 = estimate.ci95
    if ci95 and not errors.sum():
        ci95 = statistics.share(0, int(words.sum())).ci95  # no errors: the bootstrap has no width
    rates = errors / words
    by_speaker: dict[str, Any] = {}
    if speakers is not None:
        clustered = statistics.ratio(
            errors, words, clusters=speakers, resamples=resamples, seed=seed
        )
        by_speaker = {"ci95_speakers": clustered.ci95, "speakers": len(set(speakers))}
    return {
        "value": estimate.value,
        "ci95": ci95,
        "n": len(counts),
        **by_speaker,
        "words": int(words.sum()),
        "substitutions": sum(count.substitutions for count in counts),
        "deletions": sum(count.deletions for count in counts),
        "insertions": sum(count.insertions for count in counts),
        "mean": float(rates.mean()),
        "median": float(np.median(rates)),
        "share_above_half": float((rates > 0.5).mean()),
        "share_empty": float(np.mean([count.empty for count in counts])),
        "failed": sum(count.failed for count in counts),
        **apart,
    }
