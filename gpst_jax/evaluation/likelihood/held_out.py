"""Held-out likelihood: nll per stream and codebook, and bits per second of audio.

An utterance is a record of a token dataset, scored with nothing before it. One that is longer than
the model's segments in training is scored in equal pieces that are not, as training reads it;
models of collapsed units are trained on whole records, and asked about whole records.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.datasets.kinds import read_spec
from data_pipeline.datasets.sequence_dataset import SequenceSpec
from data_pipeline.datasets.sequence_records import SequenceReader
from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.datasets.token_records import RecordReader
from data_pipeline.runtime.errors import UserError
from data_pipeline.tokens import TokenLayout
from gpst_jax.evaluation.likelihood.estimates import Bootstrap, Row, known_speakers, ratio
from gpst_jax.evaluation.likelihood.gpst import GPSTScorer
from gpst_jax.evaluation.likelihood.language_model import LanguageModelScorer
from gpst_jax.evaluation.likelihood.scores import Failure, Score
from gpst_jax.evaluation.likelihood.scoring import Scoring
from gpst_jax.evaluation.metrics.statistics import RESAMPLES, not_available
from gpst_jax.generation.gpst_modes import Part

PRETRAIN = "pretrain"  # sequences of nothing but speech


@dataclasses.dataclass(frozen=True)
class Utterance:
    """An utterance and its score.

    Attributes:
        id: of the record.
        speaker: empty or `unknown` where the dataset does not say.
        seconds: of audio that is predicted.
        score: under the model.
        task: of sequences, else empty.
    """

    id: str
    speaker: str
    seconds: float
    score: Score
    task: str = ""


def held_out(
    scoring: Scoring,
    dataset_dir: str | Path,
    split: str = "valid",
    items: int | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores the utterances of a split.

    Args:
        scoring: the model.
        dataset_dir: of tokens for GPST, of sequences for the language model.
        split: of the dataset.
        items: how many utterances, chosen by the seed; None: all.
        resamples: of the bootstrap.
        seed: of choice and bootstrap.

    Returns:
        JSON values: what was scored, `failed` utterances with reasons, and `estimates`: rows of
        `nll_STREAM` in nats per token and of `bits_per_second`, in all and by stream. Of sequences
        also `tasks`, with rows of each; `bits_per_second` is that of the task `pretrain`.
        `items` has id, speaker, task, seconds and the bits of each stream of every utterance.

    Raises:
        UserError: the dataset is of other tokens than the model's, or has no such split.
    """
    bootstrap = Bootstrap(resamples, seed)
    spec = read_spec(dataset_dir)
    spec.split(split)
    common = {"split": split, "dataset": spec.fingerprint, "model": scoring.fingerprint}
    if isinstance(scoring.scorer, LanguageModelScorer):
        if not isinstance(spec, SequenceSpec) or spec.vocabulary != scoring.scorer.spec.vocabulary:
            raise UserError(
                f"{dataset_dir}: a language model's likelihood is that of sequences of its own "
                "vocabulary, which data_pipeline.build_sequences writes"
            )
        found, failed = _sequences(scoring, scoring.scorer, dataset_dir, split, items, seed)
        rows = of_sequences(found, bootstrap)
        return common | _counts(found, failed) | rows | {"items": _items(found)}
    if not isinstance(spec, DatasetSpec) or spec.layout() != _layout(scoring):
        raise UserError(
            f"{dataset_dir}: its tokens are not those that the model was trained on: give a "
            "dataset of the same tokenizers as --dataset"
        )
    found, failed, pieces = _records(scoring, scoring.scorer, dataset_dir, split, items, seed)
    rows = {"pieces": pieces, "estimates": _of_records(found, scoring.streams, bootstrap)}
    return common | _counts(found, failed) | rows | {"items": _items(found)}


def cut(part: Part, layout: TokenLayout, seconds: float) -> list[Part]:
    """Parts of equal length, at most `seconds` long; the part itself where it is short."""
    units, codes = part
    step = layout.units_per_step
    most = max(math.floor(seconds * layout.unit_rate) // step, 1)  # in steps of whole frames
    steps = len(units) / step
    if steps <= most:
        return [part]
    count = math.ceil(steps / most)
    edges = [math.ceil(number * steps / count) * step for number in range(count)]
    pieces = []
    for first, last in itertools.pairwise([*edges, len(units)]):
        # The last piece takes the frames that the streams differ by.
        end = codes.shape[1] if last == len(units) else layout.frame_at_unit(last)
        pieces.append((units[first:last], codes[:, layout.frame_at_unit(first) : end]))
    return pieces


def chosen(count: int, items: int | None, seed: int) -> list[int]:
    """Places of `items` of `count` records, in order: those that the seed chooses."""
    if items is None or items >= count:
        return list(range(count))
    order = np.random.default_rng(seed).permutation(count)
    return sorted(order[:items].tolist())


def _layout(scoring: Scoring) -> TokenLayout | None:
    return scoring.scorer.layout if isinstance(scoring.scorer, GPSTScorer) else None


def _records(
    scoring: Scoring, scorer: Any, dataset_dir: str | Path, split: str, items: int | None, seed: int
) -> tuple[list[Utterance], list[dict[str, str]], int]:
    reader = RecordReader(dataset_dir, split)
    records = [reader[place] for place in chosen(len(reader), items, seed)]
    pieces = []
    for record in records:
        part = (record.units.astype(np.int32), record.codes.astype(np.int32))
        whole = scorer.data.deduplicate
        pieces.append([part] if whole else cut(part, scorer.layout, scorer.data.crop_seconds))
    scores = iter(scoring.items([piece for cuts in pieces for piece in cuts], f"{split} nll"))
    utterances, failed = [], []
    for record, cuts in zip(records, pieces, strict=True):
        results = [next(scores) for _ in cuts]
        refused = [result for result in results if isinstance(result, Failure)]
        if refused:
            failed.append({"id": record.id, "reason": refused[0].reason})
            continue
        score = Score.joined(result for result in results if isinstance(result, Score))
        seconds = record.end - record.start
        utterances.append(Utterance(record.id, record.speaker, seconds, score))
    return utterances, failed, sum(map(len, pieces))


def _sequences(
    scoring: Scoring,
    scorer: LanguageModelScorer,
    dataset_dir: str | Path,
    split: str,
    items: int | None,
    seed: int,
) -> tuple[list[Utterance], list[dict[str, str]]]:
    reader = SequenceReader(dataset_dir, split)
    records = [reader[place] for place in chosen(len(reader), items, seed)]
    results = scoring.items([(record.ids, record.loss_mask) for record in records], f"{split} nll")
    utterances, failed = [], []
    for record, result in zip(records, results, strict=True):
        if isinstance(result, Failure):
            failed.append({"id": record.id, "reason": result.reason})
            continue
        seconds = result.tokens["units"] / scorer.spec.semantic.frame_rate
        utterances.append(Utterance(record.id, "", seconds, result, record.task))
    return utterances, failed


def _counts(found: Sequence[Utterance], failed: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    return {
        "utterances": len(found),
        "seconds": round(math.fsum(utterance.seconds for utterance in found), 3),
        "speakers": known_speakers([utterance.speaker for utterance in found]),
        "failed": list(failed),
    }


def _items(found: Sequence[Utterance]) -> list[dict[str, Any]]:
    return [
        {
            "id": utterance.id,
            "speaker": utterance.speaker,
            "task": utterance.task,
            "seconds": utterance.seconds,
            "bits": {
                name: nats / math.log(2) for name, nats in sorted(utterance.score.nats.items())
            },
        }
        for utterance in found
    ]


def _of_records(
    found: Sequence[Utterance], streams: Sequence[str], bootstrap: Bootstrap
) -> dict[str, Row]:
    rows = {"bits_per_second": _bits(found, streams, bootstrap)}
    groups = {name: [name] for name in streams}
    groups["acoustic"] = [name for name in streams if name.startswith("acoustic")]
    for name, members in groups.items():
        rows[f"nll_{name}"] = _nll(found, members, bootstrap)
        rows[f"bits_per_second_{name}"] = _bits(found, members, bootstrap)
    return dict(sorted(rows.items()))


def of_sequences(found: Sequence[Utterance], bootstrap: Bootstrap) -> dict[str, Any]:
    """The rows of sequences, in all and by task, see `held_out`."""

    def nlls(of: Sequence[Utterance]) -> dict[str, Row]:
        return {f"nll_{name}": _nll(of, [name], bootstrap) for name in ("text", "units")}

    tasks: dict[str, list[Utterance]] = {}
    for utterance in found:
        tasks.setdefault(utterance.task, []).append(utterance)
    bits = not_available(f"no sequences of the task {PRETRAIN}")
    if PRETRAIN in tasks:
        bits = _bits(tasks[PRETRAIN], ("units", "text"), bootstrap)
    return {
        "estimates": {"bits_per_second": bits, **nlls(found)},
        "tasks": {task: nlls(of) for task, of in sorted(tasks.items())},
    }


def _nll(found: Sequence[Utterance], streams: Sequence[str], bootstrap: Bootstrap) -> Row:
    """Nats per token of streams, over the utterances that have some."""
    totals = [(utterance, utterance.score.sum(streams)) for utterance in found]
    kept = [(utterance, total) for utterance, total in totals if total.tokens]
    return ratio(
        [total.nats for _, total in kept],
        [total.tokens for _, total in kept],
        [utterance.speaker for utterance, _ in kept],
        bootstrap,
    )


def _bits(found: Sequence[Utterance], streams: Sequence[str], bootstrap: Bootstrap) -> Row:
    """Bits of streams per second of audio."""
    return ratio(
        [utterance.score.sum(streams).nats / math.log(2) for utterance in found],
        [utterance.seconds for utterance in found],
        [utterance.speaker for utterance in found],
        bootstrap,
    )
