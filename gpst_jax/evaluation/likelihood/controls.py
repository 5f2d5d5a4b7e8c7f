"""Pairs made of a dataset's own held-out utterances, to check a model and this measurement.

`shuffled_units`: a model that has learnt anything prefers the real order of units. `coin_pairs` and
`identical_pairs`: there is nothing to know, so that the accuracy is 50 % but for chance; if it is
not, the measurement is wrong.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.datasets.sequence_records import SequenceReader
from data_pipeline.datasets.token_records import RecordReader
from data_pipeline.runtime.errors import UserError
from data_pipeline.tokens.vocabulary import Vocabulary
from gpst_jax.evaluation.likelihood.language_model import LanguageModelScorer, Sequence
from gpst_jax.evaluation.likelihood.pairs import Pair
from gpst_jax.evaluation.likelihood.scoring import Scoring
from gpst_jax.generation.gpst_modes import Part
from gpst_jax.samples.texts import text_kind

_TASKS = ("pretrain", "tts")  # sequences of nothing but speech, else of texts read aloud


def shuffled_units(
    scoring: Scoring, dataset_dir: str | Path, split: str = "valid", count: int = 200, seed: int = 0
) -> list[Pair]:
    """Utterances against themselves with their units in random order; all else stays.

    Made for the score over units alone.

    Args:
        scoring: the model.
        dataset_dir: of tokens for GPST, where only digit strings are taken if there are any; of
            sequences for the language model, those of nothing but speech or else of text to speech.
        split: of the dataset.
        count: how many pairs at most, chosen by the seed.
        seed: of choice and order.

    Raises:
        UserError: the dataset has no such split, or no utterances to take.
    """
    pairs: list[Pair] = []
    for name, item in _utterances(scoring, dataset_dir, split, seed):
        random = np.random.default_rng(_number(seed, name))
        if isinstance(scoring.scorer, LanguageModelScorer):
            other = _shuffled_sequence(item, scoring.scorer.spec.vocabulary, random)
        else:
            other = (random.permutation(item[0]), item[1])
        if len(pairs) < count and not np.array_equal(other[0], item[0]):  # not all are equal
            pairs.append(Pair(name, item, other))
    return pairs


def coin_pairs(
    scoring: Scoring, dataset_dir: str | Path, split: str = "valid", count: int = 200, seed: int = 0
) -> list[Pair]:
    """Two utterances each, of which a coin says which one is to be preferred.

    Whatever the model, its accuracy is that of guessing: the coin knows nothing of the utterances.
    Arguments and errors as `shuffled_units`.
    """
    found = _utterances(scoring, dataset_dir, split, seed)[: count + 1]
    pairs: list[Pair] = []
    for (name, one), (other_name, other) in zip(found, [*found[1:], found[0]], strict=True):
        if len(found) < 2 or len(pairs) == count:
            break
        heads = _number(seed, f"{name} {other_name}") % 2
        sides = (other, one) if heads else (one, other)
        pairs.append(Pair(f"{name} {other_name}", *sides))
    return pairs


def identical_pairs(
    scoring: Scoring, dataset_dir: str | Path, split: str = "valid", count: int = 200, seed: int = 0
) -> list[Pair]:
    """Utterances against themselves: all ties. Arguments and errors as `shuffled_units`."""
    found = _utterances(scoring, dataset_dir, split, seed)[:count]
    return [Pair(name, item, item) for name, item in found]


def _utterances(
    scoring: Scoring, dataset_dir: str | Path, split: str, seed: int
) -> list[tuple[str, Any]]:
    """Token sequences of utterances by id, in an order of the seed."""
    found: list[tuple[str, Any]]
    if isinstance(scoring.scorer, LanguageModelScorer):
        found = list(_sequences(dataset_dir, split))
    else:
        found = list(_parts(dataset_dir, split))
    if not found:
        raise UserError(f"{dataset_dir}: the split {split} has no utterances to make pairs of")
    return sorted(found, key=lambda one: _number(seed, one[0]))


def _parts(dataset_dir: str | Path, split: str) -> list[tuple[str, Part]]:
    reader = RecordReader(dataset_dir, split)
    records = [reader[place] for place in range(len(reader))]
    digits = [record for record in records if text_kind(record.text) == "digits"]
    return [
        (record.id, (record.units.astype(np.int32), record.codes.astype(np.int32)))
        for record in digits or records
    ]


def _sequences(dataset_dir: str | Path, split: str) -> list[tuple[str, Sequence]]:
    reader = SequenceReader(dataset_dir, split)
    records = [reader[place] for place in range(len(reader))]
    for task in _TASKS:
        if found := [record for record in records if record.task == task]:
            return [(record.id, (record.ids, record.loss_mask)) for record in found]
    return []


def _shuffled_sequence(
    item: Sequence, vocabulary: Vocabulary, random: np.random.Generator
) -> Sequence:
    ids, mask = item
    units = vocabulary.is_unit(ids) & (mask == 1)
    shuffled = ids.copy()
    shuffled[units] = random.permutation(ids[units])
    return shuffled, mask


def _number(seed: int, name: str) -> int:
    """A random number of one utterance, whatever else is chosen."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little")
