"""Speaker identity transfer: whether a voice is nearer to the prompt's than to the source's."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gpst_jax.evaluation.comparisons import paired_difference
from gpst_jax.evaluation.metrics import statistics
from gpst_jax.evaluation.metrics.base import Inputs, Row, Scores, setting
from gpst_jax.evaluation.metrics.display import Cell, Table, items_of, proportion_cell
from gpst_jax.evaluation.metrics.speaker import Embed, Embeddings, cosine, is_transfer
from gpst_jax.samples.manifest import UNSEEN, Sample

_TARGETS = ("voice_conversion",)  # conditions whose prompts are called targets


def mean_embeddings(
    labelled: Iterable[tuple[str, Sequence[float]]],
) -> dict[str, np.ndarray]:
    """Mean embedding of each speaker, from (speaker, embedding) of original recordings."""
    groups: dict[str, list[Sequence[float]]] = {}
    for speaker, embedding in labelled:
        groups.setdefault(speaker, []).append(embedding)
    return {speaker: np.mean(group, axis=0) for speaker, group in groups.items()}


def clearly_different(
    means: Mapping[str, np.ndarray], a: str | None, b: str | None, threshold: float
) -> bool:
    """Whether two speakers of `means` have mean embeddings with a cosine below the threshold."""
    if a is None or b is None or a == b or a not in means or b not in means:
        return False
    return cosine(means[a], means[b]) < threshold


# The generated file, and another recording of the prompt speaker, through the codec and as it is.
_AUDIO_FIELDS = ("audio", "prompt_reference_codec_audio", "prompt_reference_audio")


def closer_to_prompt(
    samples: Sequence[Sample],
    embed: Embed,
    means: Mapping[str, np.ndarray],
    *,
    threshold: float,
    resamples: int,
    seed: int,
) -> Row:
    """Fraction of samples whose voice is nearer to the prompt's recording than to the source's.

    Only samples whose two speakers are clearly different count. The same fraction is given for
    another recording of the prompt speaker, through the codec and as it is: the most that can be
    expected with this encoder. A failed file is not nearer.

    Args:
        samples: of a condition with prompts of other speakers.
        embed: the embedding of a file, or None when there is none.
        means: mean embedding of each speaker over original recordings.
        threshold: two speakers are clearly different when the cosine of their means is below it.
        resamples: bootstrap resamples.
        seed: of the bootstrap.
    """
    candidates = [s for s in samples if is_transfer(s)]
    voices = {s.id: s.prompt_speaker or "" for s in candidates}
    nearer: dict[str, dict[str, bool]] = {field: {} for field in _AUDIO_FIELDS}
    to_prompt: dict[str, list[float]] = {field: [] for field in _AUDIO_FIELDS}
    to_source: dict[str, list[float]] = {field: [] for field in _AUDIO_FIELDS}
    for sample in candidates:
        prompt, source = embed(sample.prompt_audio), embed(sample.source_audio)
        if prompt is None or source is None:
            continue
        if not clearly_different(means, sample.speaker, sample.prompt_speaker, threshold):
            continue
        for field in _AUDIO_FIELDS:
            path = getattr(sample, field)
            if path is None:
                continue
            embedding = embed(path)
            if embedding is None:
                nearer[field][sample.id] = False
                continue
            a, b = cosine(embedding, prompt), cosine(embedding, source)
            nearer[field][sample.id] = a > b
            to_prompt[field].append(a)
            to_source[field].append(b)
    about = {"threshold": threshold, "candidates": len(candidates)}
    if not nearer["audio"]:
        reason = "no items with a prompt of a clearly different voice"
        return statistics.not_available(reason) | about
    parts = {
        field: statistics.row(_proportion(hits, voices), len(hits))
        | {
            "similarity_to_prompt": float(np.mean(to_prompt[field])) if to_prompt[field] else None,
            "similarity_to_source": float(np.mean(to_source[field])) if to_source[field] else None,
        }
        for field, hits in nearer.items()
        if hits
    }
    parts["audio"]["failed"] = len(nearer["audio"]) - len(to_prompt["audio"])
    result = parts.pop("audio") | about | parts
    generated, codec = nearer["audio"], nearer["prompt_reference_codec_audio"]
    result["difference_to_codec"] = paired_difference(
        {
            id_: (float(generated[id_]), 1.0, float(codec[id_]), 1.0)
            for id_ in generated
            if id_ in codec
        },
        speakers=voices,
        resamples=resamples,
        seed=seed,
    )
    return result


def _proportion(hits: Mapping[str, bool], voices: Mapping[str, str]) -> statistics.Estimate:
    clusters = statistics.usable([voices[id_] for id_ in hits])
    return statistics.proportion(list(hits.values()), clusters=clusters)


@dataclass(frozen=True)
class IdentityTransfer(Embeddings):
    """Fraction of transferred samples that are nearer to the prompt's voice."""

    kind: ClassVar[str] = "identity"

    voice_threshold: float = setting(
        0.75,
        "Two speakers sound clearly different when their mean embeddings' cosine is below this.",
    )

    def score(self, inputs: Inputs) -> Scores:
        """One row for each condition with prompts of other speakers."""
        scores = Scores()
        if not self.similarity_items:
            return scores
        chosen, embed = self.embed(inputs)
        originals = {
            (speaker, path)
            for samples in chosen.values()
            for s in samples
            for speaker, path in (
                (s.speaker, s.source_audio),
                (s.prompt_speaker, s.prompt_audio),
                (s.prompt_speaker, s.prompt_reference_audio),
            )
            if speaker not in (None, "unknown") and path is not None
        }
        labelled = ((speaker, embed(path)) for speaker, path in sorted(originals))
        means = mean_embeddings((name, vector) for name, vector in labelled if vector is not None)
        for name, samples in chosen.items():
            if any(is_transfer(s) for s in samples):
                row = closer_to_prompt(
                    samples, embed, means, threshold=self.voice_threshold, **inputs.bootstrap
                )
                scores.rows[name, self.side_key(name)] = {"recipe": self.similarity} | row
        return scores

    @classmethod
    def side_key(cls, condition: str) -> str:
        """The prompt of a voice conversion is its target."""
        target = condition.removesuffix(UNSEEN) in _TARGETS
        return "closer_to_target" if target else "closer_to_prompt"

    @classmethod
    def side_table(cls, rows: Sequence[tuple[str, Row]]) -> Table:
        """The generated voice and the two references of each condition."""
        labels = (
            (None, "generated"),
            ("prompt_reference_codec_audio", "prompt speaker through the codec"),
            ("prompt_reference_audio", "prompt speaker, recording"),
        )
        lines = []
        for name, row in rows:
            if row["value"] is None:
                lines.append((name, [proportion_cell(row)]))
                continue
            for key, label in labels:
                part = row if key is None else row.get(key)
                if part is not None:
                    cosines = (part["similarity_to_prompt"], part["similarity_to_source"])
                    cells = [proportion_cell(part), *map(_cosine_cell, cosines)]
                    lines.append((f"{name}: {label}", cells))
        first = rows[0][1]
        return Table(
            title="Whose voice is it?",
            caption=f"Share of transferred samples whose voice ({first['recipe']}) is nearer to "
            "the prompt's recording than to the source's, over pairs of speakers whose mean "
            f"embeddings have a cosine below {first['threshold']:g}.",
            columns=("nearer to the prompt", "cosine to prompt", "cosine to source"),
            rows=lines,
        )

    @classmethod
    def side_lines(cls, rows: Sequence[tuple[str, Row]]) -> list[str]:
        """One line for each condition."""
        lines = []
        for name, row in rows:
            if row["value"] is None:
                lines.append(f"{name}, nearer to the prompt's voice: {row['reason']}")
                continue
            codec = row.get("prompt_reference_codec_audio")
            beside = f"; the codec's reconstruction of it {codec['value']:.0%}" if codec else ""
            lines.append(
                f"{name}, nearer to the prompt's voice than to the source's: {row['value']:.0%} "
                f"(n = {items_of(row)}){beside} ({row['recipe']})"
            )
        return lines


def _cosine_cell(value: float | None) -> Cell:
    return Cell("–" if value is None else f"{value:.2f}")  # noqa: RUF001  an en dash is meant
