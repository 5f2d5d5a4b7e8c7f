"""What single numbers are held against: paired differences, floors, and whose voice it is.

All functions work on scores of single items, keyed by sample id; nothing here reads sound.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpst_jax.evaluation.metrics import speaker, statistics, wer
from gpst_jax.samples.manifest import UNSEEN, Sample

# A condition, and the one whose loss it must not add to.
COMPARED = (
    ("codec", "recording"),
    ("semantic_to_acoustic", "codec"),
    ("speaker_transfer", "codec"),
    ("tts", "codec"),
    ("voice_conversion", "codec"),
)

_TARGETS = ("voice_conversion",)  # their prompts are targets


def voice_key(condition: str) -> str:
    """Under which name a condition says whose voice it is nearer to."""
    target = condition.removesuffix(UNSEEN) in _TARGETS
    return "closer_to_target" if target else "closer_to_prompt"


Embed = Callable[[Path | None], list[float] | None]


def compared_conditions(names: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of COMPARED, with and without `_unseen`, of which both conditions exist."""
    found = [(a + suffix, b + suffix) for suffix in ("", UNSEEN) for a, b in COMPARED]
    return [(a, b) for a, b in found if a in names and b in names]


def _row(estimate: statistics.Estimate, n: int) -> dict[str, Any]:
    return {"value": estimate.value, "ci95": estimate.ci95, "n": n}


def wer_difference(
    counts: Mapping[str, wer.ErrorCounts],
    base: Mapping[str, wer.ErrorCounts],
    *,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Corpus word error rate minus that of the base, over the ids in both."""
    ids = sorted(counts.keys() & base.keys())
    if not any(counts[id_].words for id_ in ids):
        return statistics.not_available("no transcribed items in common")
    columns = [
        [getattr(table[id_], field) for id_ in ids]
        for table in (counts, base)
        for field in ("errors", "words")
    ]
    estimate = statistics.paired_ratio_difference(*columns, resamples=resamples, seed=seed)
    return _row(estimate, len(ids))


def mean_difference(
    values: Mapping[str, float], base: Mapping[str, float], *, resamples: int, seed: int
) -> dict[str, Any]:
    """Mean score minus that of the base, over the ids in both."""
    ids = sorted(values.keys() & base.keys())
    if not ids:
        return statistics.not_available("no items in common")
    estimate = statistics.paired_mean_difference(
        [values[id_] for id_ in ids], [base[id_] for id_ in ids], resamples=resamples, seed=seed
    )
    return _row(estimate, len(ids))


def derangement(n: int, seed: int) -> np.ndarray:
    """A seeded permutation of 0..n-1 (n >= 2) that leaves nothing in its place."""
    order = np.random.default_rng(seed).permutation(n)
    shuffled = np.empty(n, np.int64)
    shuffled[order] = np.roll(order, 1)
    return shuffled


def shuffled_wer(
    references: Sequence[str],
    hypotheses: Sequence[str | None],
    speakers: Sequence[str],
    *,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Word error rate against the references of other items: what chance gives."""
    if len(references) < 2:
        return statistics.not_available("fewer than two items to shuffle")
    moved = derangement(len(references), seed)
    counts = [
        wer.count_errors(references[source], hypothesis)
        for source, hypothesis in zip(moved, hypotheses, strict=True)
    ]
    return wer.summarise(counts, speakers, resamples=resamples, seed=seed)


def another_speaker(
    samples: Sequence[Sample], embed: Embed, *, resamples: int, seed: int
) -> dict[str, Any]:
    """Similarity of original recordings of different speakers: what the wrong voice gives.

    Prompt against source recording where samples have both; otherwise each source recording (or
    sample) against the next one of another speaker.
    """
    values, speakers = [], []
    originals: list[tuple[str, Path]] = []
    for sample in samples:
        source = sample.source_audio or sample.audio
        originals.append((sample.speaker, source))
        if sample.prompt_speaker not in (None, sample.speaker):
            a, b = embed(sample.prompt_audio), embed(sample.source_audio)
            if a is not None and b is not None:
                values.append(speaker.cosine(a, b))
                speakers.append(sample.speaker)
    reference = "prompt_audio against source_audio of another speaker"
    if not values:
        reference = "recordings of different speakers"
        for i, (name, path) in enumerate(originals):
            others = (j for j in range(i + 1, i + len(originals)))
            other = next(
                (j for j in others if originals[j % len(originals)][0] != name),
                None,
            )
            if other is None:
                continue
            a, b = embed(path), embed(originals[other % len(originals)][1])
            if a is not None and b is not None:
                values.append(speaker.cosine(a, b))
                speakers.append(name)
    return speaker.summarise(
        values, speakers, reference=reference, failed=0, resamples=resamples, seed=seed
    )


_VOICES = ("audio", "prompt_reference_codec_audio", "prompt_reference_audio")


def closer_to_prompt(
    samples: Sequence[Sample],
    embed: Embed,
    means: Mapping[str, np.ndarray],
    *,
    threshold: float,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Share of samples whose voice is nearer to the prompt's recording than to the source's.

    Only samples whose two speakers sound clearly different count. Beside the generated sound
    stands the same share for another recording of the prompt speaker, through the codec and as it
    is: the most that this recogniser of voices can be expected to give. A failed sound is not
    nearer.

    Args:
        samples: of a condition with prompts of other speakers.
        embed: gives the embedding of a file, or None when there is none.
        means: mean embedding of each speaker over original recordings.
        threshold: two speakers are clearly different when the cosine of their means is below it.
        resamples: bootstrap resamples.
        seed: of the bootstrap.
    """
    candidates = [s for s in samples if s.prompt_speaker not in (None, s.speaker)]
    nearer: dict[str, dict[str, bool]] = {voice: {} for voice in _VOICES}
    to_prompt: dict[str, list[float]] = {voice: [] for voice in _VOICES}
    to_source: dict[str, list[float]] = {voice: [] for voice in _VOICES}
    for sample in candidates:
        prompt, source = embed(sample.prompt_audio), embed(sample.source_audio)
        if prompt is None or source is None:
            continue
        if not speaker.clearly_different(means, sample.speaker, sample.prompt_speaker, threshold):
            continue
        for voice in _VOICES:
            path = getattr(sample, voice)
            if path is None:
                continue
            embedding = embed(path)
            if embedding is None:
                nearer[voice][sample.id] = False
                continue
            a, b = speaker.cosine(embedding, prompt), speaker.cosine(embedding, source)
            nearer[voice][sample.id] = a > b
            to_prompt[voice].append(a)
            to_source[voice].append(b)
    kept = nearer["audio"]
    about = {"threshold": threshold, "candidates": len(candidates)}
    if not kept:
        reason = "no items with a prompt of a clearly different voice"
        return statistics.not_available(reason) | about
    shares = {
        voice: _row(statistics.share(sum(found.values()), len(found)), len(found))
        | {
            "similarity_to_prompt": float(np.mean(to_prompt[voice])) if to_prompt[voice] else None,
            "similarity_to_source": float(np.mean(to_source[voice])) if to_source[voice] else None,
        }
        for voice, found in nearer.items()
        if found
    }
    result = shares.pop("audio") | about | shares
    codec = nearer["prompt_reference_codec_audio"]
    result["difference_to_codec"] = mean_difference(
        {id_: float(hit) for id_, hit in kept.items()},
        {id_: float(hit) for id_, hit in codec.items()},
        resamples=resamples,
        seed=seed,
    )
    return result
