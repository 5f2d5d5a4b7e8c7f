"""Alignment counts of recognised text, and their aggregates.

A corpus error rate is sum(S + D + I) / sum(reference words); the mean and the median are over
utterances. An utterance whose file is missing, silent or cannot be decoded counts as all of its
words deleted; it is never left out. Left out, and counted, are references without words.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpst_jax.evaluation.metrics import statistics
from gpst_jax.evaluation.metrics.base import Row

# Runaway: more words than this many times those of the reference, and so many more than there
# should be. A wrong split of a few short words is none.
RUNAWAY_TIMES, RUNAWAY_WORDS = 1.5, 4
# Unfinished: at least so many words and this part of the reference, all at its end, are deleted.
UNFINISHED_WORDS, UNFINISHED_PART = 2, 0.2

CORPUS, MEAN = "corpus", "mean"  # what the value of a row is


@dataclass(frozen=True)
class ErrorCounts:
    """Alignment of one utterance."""

    words: int  # of the reference
    substitutions: int
    deletions: int
    insertions: int
    empty: bool  # the hypothesis has no words
    failed: bool = False  # the file could not be read
    runaway: bool = False  # the hypothesis has many more words than the reference
    unfinished: bool = False  # the hypothesis breaks off before the last words of the reference

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
    last = output.alignments[0][-1]
    missing = last.ref_end_idx - last.ref_start_idx if last.type == "delete" else 0
    return ErrorCounts(
        words,
        output.substitutions,
        output.deletions,
        output.insertions,
        empty=False,
        runaway=recognised > max(RUNAWAY_TIMES * words, words + RUNAWAY_WORDS),
        unfinished=missing >= max(UNFINISHED_WORDS, UNFINISHED_PART * words),
    )


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
    counts: Sequence[ErrorCounts],
    speakers: Sequence[str] | None,
    *,
    resamples: int,
    seed: int,
    aggregate: str = CORPUS,
) -> Row:
    """The word error rate of a condition, with what a single number hides.

    Args:
        counts: of each utterance.
        speakers: of each utterance; None where they have none.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        aggregate: what `value` is: `corpus` rate, or `mean` of the utterances' rates.

    Returns:
        value, ci95 and `interval`, which says what ci95 is over: speakers where five or more are
        known, else utterances; ci95_items over utterances; ci95_speakers over speakers (None with
        fewer than two, absent without speakers); n utterances, reference words, S, D and I; the
        rates corpus, mean and median with corpus_ci95, mean_ci95 and median_ci95;
        share_above_half, share_empty, share_runaway and share_unfinished; and the number of failed
        files. Utterances without reference words are not among them: `n_empty` counts them.
    """
    without = sum(not count.words for count in counts)
    apart = {"n_empty": without} if without else {}
    if speakers is not None:
        speakers = [s for s, count in zip(speakers, counts, strict=True) if count.words]
    counts = [count for count in counts if count.words]
    if not counts:
        return statistics.not_available("reference transcripts hold no words") | apart
    errors = np.array([count.errors for count in counts])
    words = np.array([count.words for count in counts])
    rates = errors / words
    columns = (errors, words) if aggregate == CORPUS else (rates, np.ones(len(counts)))
    bootstrap: dict[str, Any] = {"resamples": resamples, "seed": seed}
    clusters = statistics.usable(speakers)

    def interval(estimate: statistics.Estimate) -> list[float] | None:
        if estimate.ci95 and not errors.sum():  # no errors: resamples have no width
            return statistics.share(0, int(words.sum())).ci95
        return estimate.ci95

    estimate = statistics.ratio(*columns, clusters=clusters, **bootstrap)
    by_speaker: dict[str, Any] = {}
    if speakers is not None:
        clustered = statistics.ratio(*columns, clusters=speakers, **bootstrap)
        by_speaker = {"ci95_speakers": clustered.ci95, "speakers": len(set(speakers))}
    rows = {
        "corpus": statistics.ratio(errors, words, clusters=clusters, **bootstrap),
        "mean": statistics.mean(rates, clusters=clusters, **bootstrap),
        "median": statistics.median(rates, clusters=clusters, **bootstrap),
    }
    return {
        "value": estimate.value,
        "ci95": interval(estimate),
        "n": len(counts),
        "interval": estimate.interval,
        "ci95_items": interval(statistics.ratio(*columns, **bootstrap)),
        **by_speaker,
        "words": int(words.sum()),
        "substitutions": sum(count.substitutions for count in counts),
        "deletions": sum(count.deletions for count in counts),
        "insertions": sum(count.insertions for count in counts),
        **{name: found.value for name, found in rows.items()},
        **{f"{name}_ci95": interval(found) for name, found in rows.items()},
        "share_above_half": float((rates > 0.5).mean()),
        "share_empty": _share(count.empty for count in counts),
        "share_runaway": _share(count.runaway for count in counts),
        "share_unfinished": _share(count.unfinished for count in counts),
        "failed": sum(count.failed for count in counts),
        **apart,
    }


def _share(flags: Iterable[bool]) -> float:
    return float(np.mean(list(flags)))
