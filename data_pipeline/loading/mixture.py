"""Mixtures of datasets: their components, and the shares of these.

A mixture is a JSON file:

    {"datasets": [
        {"path": "tokens/en", "weight": 3},
        {"path": "tokens/multi", "weight": 1, "languages": {"zh": 2.0, "fr": 1.0}}
    ]}

Paths are relative to the file; it and the datasets may be in a bucket (`gs://`). Weights are
relative shares of the rows; without any, datasets are weighted by their hours. A weight may change
in the course of training: `[[0, 3], [8000, 0.5]]` is 3 from the beginning and 0.5 from batch 8,000
on; 0 leaves the dataset out for that time. `languages` reads only those languages, each weighted by
its hours times its factor; without it, a dataset is read as it is. Every component has its own
epochs.
"""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from data_pipeline.datasets.cache import local_dataset
from data_pipeline.datasets.kinds import Spec, read_spec
from data_pipeline.datasets.token_dataset import DatasetSpec, LengthIndex, SplitSpec
from data_pipeline.loading.mixture_plan import LEAST_SHARE
from data_pipeline.runtime.buckets import access, is_bucket, location
from data_pipeline.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class MixtureEntry:
    """One dataset of a mixture.

    Attributes:
        path: directory that holds its `dataset.json`.
        weights: (first batch, share of the rows from there on, relative to the other entries), in
            order, from batch 0; empty: its hours.
        languages: (code, factor) of the languages to read; empty: all, as they are.
    """

    path: str
    weights: tuple[tuple[int, float], ...] = ()
    languages: tuple[tuple[str, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Component:
    """A dataset, or one language of it, with its own packing plan.

    Attributes:
        path: dataset directory.
        language: the only one read, or None for all.
        share: fraction of the rows, in [0, 1]; the shares of a mixture sum to 1.
        later: (first batch, share from there on) of every later phase, the same batches for all
            components of a mixture.
    """

    path: str
    language: str | None
    share: float
    later: tuple[tuple[int, float], ...] = ()


def read_mixture(path: str | Path) -> tuple[MixtureEntry, ...]:
    """Reads a mixture file; the directory of a dataset counts as a mixture of one.

    Raises:
        UserError: the file is missing or not a mixture; the message names the key.
    """
    file = location(path)
    if file.suffix != ".json" or file.is_dir():
        return (MixtureEntry(local_dataset(str(file))),)
    try:
        with access(path):
            value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"mixture {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"mixture {path} is not JSON: {error}") from error
    if not isinstance(value, dict) or set(value) != {"datasets"}:
        raise UserError(f'mixture {path}: expected {{"datasets": [...]}} and nothing else')
    entries = value["datasets"]
    if not isinstance(entries, list) or not entries:
        raise UserError(f"mixture {path}: datasets must be a list with at least one entry")
    found = tuple(_entry(file, number, entry) for number, entry in enumerate(entries))
    if len({not entry.weights for entry in found}) > 1:
        raise UserError(f"mixture {path}: give every dataset a weight, or none")
    return found


def _entry(path: Path, number: int, value: Any) -> MixtureEntry:
    where = f"mixture {path}: datasets[{number}]"
    if not isinstance(value, dict) or not isinstance(value.get("path"), str):
        raise UserError(f'{where}: expected an object with "path"')
    if unknown := set(value) - {"path", "weight", "languages"}:
        raise UserError(f"{where}: unknown key {sorted(unknown)[0]!r}")
    languages = value.get("languages", {})
    if not isinstance(languages, dict) or ("languages" in value and not languages):
        raise UserError(f"{where}: languages must be an object of codes and factors")
    for name, factor in languages.items():
        if not _is_number(factor) or not factor > 0:
            raise UserError(f"{where}: {name} must be a positive number, is {factor!r}")
    where = value["path"] if is_bucket(value["path"]) else str(path.parent / value["path"])
    return MixtureEntry(
        local_dataset(where),
        _weights(where, value["weight"]) if "weight" in value else (),
        tuple(sorted((code, float(factor)) for code, factor in languages.items())),
    )


def _weights(where: str, value: Any) -> tuple[tuple[int, float], ...]:
    """The weight of an entry by the batch from which it holds: see `MixtureEntry`."""
    if not isinstance(value, list):
        if not _is_number(value) or not value > 0:
            raise UserError(f"{where}: weight must be a positive number, is {value!r}")
        return ((0, float(value)),)
    for pair in value:
        good = isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair))
        if not good or not isinstance(pair[0], int) or pair[1] < 0:
            raise UserError(
                f"{where}: weight must be a list of [first batch, weight], has {pair!r}"
            )
    batches = [first for first, _ in value]
    if not batches or batches[0] != 0 or batches != sorted(set(batches)):
        raise UserError(f"{where}: weight must begin at batch 0 and go up, has {batches}")
    if not any(weight for _, weight in value):
        raise UserError(f"{where}: weight is 0 from beginning to end: leave the dataset out")
    return tuple((first, float(weight)) for first, weight in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def load_spec(path: str | Path) -> Spec:
    """The spec of a dataset of any kind, or the merged spec of a mixture.

    Raises:
        UserError: a dataset is missing or damaged, or two differ in kind or tokenizers; the
            message names both.
    """
    entries = read_mixture(path)
    specs = [read_spec(entry.path) for entry in entries]
    if len(specs) == 1 and not entries[0].languages:
        return specs[0]
    first = specs[0]
    for entry, spec in zip(entries, specs, strict=True):
        if type(spec) is not type(first):
            raise UserError(
                f"{entry.path} and {entries[0].path} cannot be mixed: they differ in kind"
            )
        ours = first.tokenizers()
        for name, value in spec.tokenizers().items():
            if value != ours[name]:
                raise UserError(
                    f"{entry.path} and {entries[0].path} cannot be mixed: {name} is {value} and "
                    f"{ours[name]}; tokenise both with the same tokenizers"
                )
    names = sorted({name for spec in specs for name in spec.splits})
    keys = sorted({key for spec in specs for key in spec.statistics})
    return dataclasses.replace(
        first,
        splits={
            name: _merged([spec.splits[name] for spec in specs if name in spec.splits])
            for name in names
        },
        statistics={key: sum(spec.statistics.get(key, 0) for spec in specs) for key in keys},
        **first.mixed_fields(cast(Any, specs)),
    ).sealed()


def dataset_with(path: str | Path, *splits: str) -> str:
    """The first dataset of a mixture that has one of the splits; a single dataset, itself.

    Raises:
        UserError: none has.
    """
    entries = read_mixture(path)
    for entry in entries:
        if any(split in read_spec(entry.path).splits for split in splits):
            return entry.path
    raise UserError(f"{path}: no dataset has a split {' or '.join(splits)}")


def _merged(splits: Sequence[SplitSpec]) -> SplitSpec:
    def digest(name: str) -> str:
        return hashlib.sha256("\n".join(getattr(s, name) for s in splits).encode()).hexdigest()

    return SplitSpec(
        num_records=sum(split.num_records for split in splits),
        num_shards=sum(split.num_shards for split in splits),
        hours=round(sum(split.hours for split in splits), 6),
        index_sha256=digest("index_sha256"),
        shards_sha256=digest("shards_sha256"),
    )


def components(path: str | Path, split: str, *, weighted: bool = True) -> tuple[Component, ...]:
    """The components of a split, datasets without that split left out.

    Args:
        path: of a dataset or a mixture file.
        split: of every dataset.
        weighted: with the phases of weights that change; without, for an evaluation, which reads
            everything once, there is one phase.

    Raises:
        UserError: no dataset has the split, a language is not in its dataset, or a share is
            below `LEAST_SHARE`.
    """
    specs = [(entry, read_spec(entry.path)) for entry in read_mixture(path)]
    batches = sorted({0, *(first for entry, _ in specs for first, _ in entry.weights)})
    found: list[tuple[str, str | None, np.ndarray]] = []  # with its weight in every phase
    for entry, spec in specs:
        if split not in spec.splits:
            continue
        weights = _by_phase(entry, batches if weighted else [0], spec.splits[split].hours)
        if not entry.languages:
            found.append((entry.path, None, weights))
            continue
        amounts = _language_amounts(entry, spec, split)
        factors = [amounts[code] * factor for code, factor in entry.languages]
        for (code, _), amount in zip(entry.languages, factors, strict=True):
            found.append((entry.path, code, weights * amount / sum(factors)))
    if not found:
        specs[0][1].split(split)  # raises, and lists the splits that there are
        raise UserError(f"{path}: no dataset has the split {split!r}")
    totals = functools.reduce(np.add, [weights for _, _, weights in found])
    for first, total in zip(batches, totals, strict=False):
        if not total:
            what = f"all weights are 0 from batch {first} on" if first else "no speech, so no hours"
            raise UserError(f"{path}: {what} to weight the split {split} by: give weights")
    return tuple(
        _component(path, where, code, weights / totals, batches) for where, code, weights in found
    )


def _by_phase(entry: MixtureEntry, batches: Sequence[int], hours: float) -> np.ndarray:
    """The weight of an entry from each of some batches on; with one, its greatest weight."""
    if not entry.weights or len(batches) == 1:
        return np.array([max((w for _, w in entry.weights), default=hours)] * len(batches))
    firsts = [first for first, _ in entry.weights]
    places = np.searchsorted(firsts, batches, side="right") - 1
    return np.array([entry.weights[place][1] for place in places])


def _component(
    path: str | Path, where: str, code: str | None, shares: np.ndarray, batches: Sequence[int]
) -> Component:
    for share in shares[shares > 0]:
        if share < LEAST_SHARE:
            what = where + (f" ({code})" if code else "")
            raise UserError(
                f"{path}: {what} has a share of {share:.2%} of the rows, the least is "
                f"{LEAST_SHARE:.2%}: raise its weight or leave it out"
            )
    first, *later = shares.tolist()
    return Component(where, code, first, tuple(zip(batches[1:], later, strict=False)))


def _language_amounts(entry: MixtureEntry, spec: Spec, split: str) -> dict[str, float]:
    """Seconds of every language of a split."""
    if not isinstance(spec, DatasetSpec):
        raise UserError(f"{entry.path}: only datasets of tokens can be read by languages")
    index = LengthIndex.load(entry.path, spec, split)
    units = np.bincount(index.language, index.units, len(index.languages))
    amounts = dict(zip(index.languages, (units / spec.semantic.frame_rate).tolist(), strict=True))
    for code, _ in entry.languages:
        if not amounts.get(code):
            raise UserError(
                f"{entry.path}: no records of language {code!r} in the split {split}, there are "
                f"{', '.join(index.languages)}"
            )
    return amounts
