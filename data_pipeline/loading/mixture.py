"""Mixtures of datasets: components, their shares, and the component of every row.

A mixture is a JSON file:

    {"datasets": [
        {"path": "tokens/en", "weight": 3},
        {"path": "tokens/multi", "weight": 1, "languages": {"zh": 2.0, "fr": 1.0}}
    ]}

Paths are relative to the file. Weights are relative shares of the rows; without any, datasets are
weighted by their hours. `languages` reads only those languages, each weighted by its hours times
its factor; without it, a dataset is read as it is. Every component has its own epochs.
"""

import dataclasses
import functools
import hashlib
import json
import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from data_pipeline.datasets.kinds import Spec, read_spec
from data_pipeline.datasets.token_dataset import DatasetSpec, LengthIndex, SplitSpec
from data_pipeline.packing.plan import RowPlan
from data_pipeline.packing.token_plan import PackingConfig
from data_pipeline.runtime.errors import UserError

MIXTURE_VERSION = 1
# Components are assigned to rows in blocks: exact shares in each, in random order.
_BLOCK = 4096
LEAST_SHARE = 2 / _BLOCK
_CACHED_BLOCKS = 4


@dataclasses.dataclass(frozen=True)
class MixtureEntry:
    """One dataset of a mixture.

    Attributes:
        path: directory that holds its `dataset.json`.
        weight: share of the rows, relative to the other entries; None: its hours.
        languages: (code, factor) of the languages to read; empty: all, as they are.
    """

    path: str
    weight: float | None = None
    languages: tuple[tuple[str, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Component:
    """A dataset, or one language of it, with its own packing plan.

    Attributes:
        path: dataset directory.
        language: the only one read, or None for all.
        share: fraction of the rows, in (0, 1]; the shares of a mixture sum to 1.
    """

    path: str
    language: str | None
    share: float


def read_mixture(path: str | Path) -> tuple[MixtureEntry, ...]:
    """Reads a mixture file; the directory of a dataset counts as a mixture of one.

    Raises:
        UserError: the file is missing or not a mixture; the message names the key.
    """
    path = Path(path)
    if path.suffix != ".json" or path.is_dir():
        return (MixtureEntry(str(path)),)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"mixture {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"mixture {path} is not JSON: {error}") from error
    if not isinstance(value, dict) or set(value) != {"datasets"}:
        raise UserError(f'mixture {path}: expected {{"datasets": [...]}} and nothing else')
    entries = value["datasets"]
    if not isinstance(entries, list) or not entries:
        raise UserError(f"mixture {path}: datasets must be a list with at least one entry")
    found = tuple(_entry(path, number, entry) for number, entry in enumerate(entries))
    if len({entry.weight is None for entry in found}) > 1:
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
    for name, weight in {"weight": value.get("weight", 1.0), **languages}.items():
        good = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not good or not 0 < weight < math.inf:
            raise UserError(f"{where}: {name} must be a positive number, is {weight!r}")
    weight = value.get("weight")
    return MixtureEntry(
        str(path.parent / value["path"]),
        None if weight is None else float(weight),
        tuple(sorted((code, float(factor)) for code, factor in languages.items())),
    )


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


def components(path: str | Path, split: str) -> tuple[Component, ...]:
    """The components of a split, datasets without that split left out.

    Raises:
        UserError: no dataset has the split, a language is not in its dataset, or a share is
            below `LEAST_SHARE`.
    """
    found: list[tuple[str, str | None, float]] = []
    specs = [(entry, read_spec(entry.path)) for entry in read_mixture(path)]
    for entry, spec in specs:
        if split not in spec.splits:
            continue
        weight = spec.splits[split].hours if entry.weight is None else entry.weight
        if not entry.languages:
            found.append((entry.path, None, weight))
            continue
        amounts = _language_amounts(entry, spec, split)
        factors = [amounts[code] * factor for code, factor in entry.languages]
        for (code, _), amount in zip(entry.languages, factors, strict=True):
            found.append((entry.path, code, weight * amount / sum(factors)))
    if not found:
        specs[0][1].split(split)  # raises, and lists the splits that there are
        raise UserError(f"{path}: no dataset has the split {split!r}")
    total = sum(weight for _, _, weight in found)
    if not total:
        raise UserError(f"{path}: no speech, so no hours to weight by: give weights")
    made = tuple(Component(where, code, weight / total) for where, code, weight in found)
    for part in made:
        if part.share < LEAST_SHARE:
            what = part.path + (f" ({part.language})" if part.language else "")
            raise UserError(
                f"{path}: {what} has a share of {part.share:.2%} of the rows, the least is "
                f"{LEAST_SHARE:.2%}: raise its weight or leave it out"
            )
    return made


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


class MixturePlan:
    """Maps every row to a component and a row of its plan. Safe to use from several threads.

    In training, components are sampled by their shares, without end: a pure function of the seed
    and the row number. An evaluation reads every record once: one epoch of each component in turn,
    whatever the shares.
    """

    def __init__(self, plans: Sequence[RowPlan], shares: Sequence[float], *, weighted: bool = True):
        """Takes one plan and share per component; `weighted` is False for an evaluation."""
        self.plans = tuple(plans)
        self.shares = tuple(shares)
        self._weighted = weighted
        self._borders = np.cumsum(self.shares) / sum(self.shares)
        self._borders[-1] = 1.0
        self._blocks: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def config(self) -> PackingConfig:
        """How records become rows, the same for all components."""
        return self.plans[0].config

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all that the rows depend on; with one component, that of its plan."""
        if len(self.plans) == 1:
            return self.plans[0].fingerprint
        content = [MIXTURE_VERSION, _BLOCK, self.shares, [plan.fingerprint for plan in self.plans]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def num_rows(self, epoch: int = 0) -> int:
        """Rows of one epoch of every component."""
        return sum(plan.num_rows(epoch) for plan in self.plans)

    def efficiency(self, epoch: int = 0) -> dict[str, float]:
        """Fractions of positions and of predicted frames that are not padding."""
        parts = [plan.efficiency(epoch) for plan in self.plans]
        return {
            key: sum(share * part[key] for share, part in zip(self.shares, parts, strict=True))
            for key in parts[0]
        }

    def source(self, row: int) -> tuple[int, int]:
        """The component that a row comes from, and the row's number in its plan."""
        if row < 0:
            raise IndexError(f"row {row} is negative")
        if len(self.plans) == 1:
            return 0, row
        if not self._weighted:
            ends = np.cumsum([plan.num_rows(0) for plan in self.plans])
            component = int(np.searchsorted(ends, row, side="right"))
            if component == len(ends):
                raise IndexError(f"row {row} of {ends[-1]}")
            return component, row - int(ends[component - 1] if component else 0)
        block, place = divmod(row, _BLOCK)
        chosen, ranks = self._block(block)
        component = int(chosen[place])
        return component, int(self._rows_before_block(block)[component] + ranks[place])

    def rows_before(self, row: int) -> list[int]:
        """How many of the rows before `row` come from each component."""
        if len(self.plans) == 1:
            return [row]
        block, place = divmod(row, _BLOCK)
        within = np.bincount(self._block(block)[0][:place], minlength=len(self.plans))
        return cast(list[int], (self._rows_before_block(block) + within).tolist())

    def _rows_before_block(self, block: int) -> np.ndarray:
        """Rows (C,) of each component before a block: its share of them, to within one row."""
        borders = np.floor(block * _BLOCK * self._borders + 0.5).astype(np.int64)
        return np.diff(borders, prepend=0)

    def _block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Component (N,) of each row of a block, and its rank (N,) among that component's rows."""
        with self._lock:
            if block not in self._blocks:
                counts = self._rows_before_block(block + 1) - self._rows_before_block(block)
                seed = np.random.SeedSequence((self.config.seed, block, MIXTURE_VERSION))
                keys = np.random.Philox(seed).random_raw(_BLOCK)
                chosen = np.repeat(np.arange(len(counts)), counts)[np.argsort(keys, kind="stable")]
                ranks = np.empty(_BLOCK, np.int64)
                ranks[np.argsort(chosen, kind="stable")] = np.arange(_BLOCK)
                first = np.concatenate([[0], np.cumsum(counts)[:-1]])
                self._blocks[block] = chosen, ranks - first[chosen]
                while len(self._blocks) > _CACHED_BLOCKS:
                    self._blocks.popitem(last=False)
            return self._blocks[block]
