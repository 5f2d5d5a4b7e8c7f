"""The plan of a mixture: the component of every row, a pure function of seed and row number."""

import functools
import hashlib
import json
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from typing import cast

import numpy as np

from data_pipeline.packing.plan import RowPlan
from data_pipeline.packing.token_plan import PackingConfig

MIXTURE_VERSION = 1
# Components are assigned to rows in blocks: exact shares in each, in random order.
_BLOCK = 4096
LEAST_SHARE = 2 / _BLOCK
_CACHED_BLOCKS = 4

Shares = Sequence[float]


class MixturePlan:
    """Maps every row to a component and a row of its plan. Safe to use from several threads.

    In training, components are sampled by their shares, without end: a pure function of the seed
    and the row number. Shares may change at given rows; a component goes on where it was. An
    evaluation reads every record once: one epoch of each component in turn, whatever the shares.

    Args:
        plans: of each component.
        shares: of each component, from row 0 on.
        later: (first row, shares from there on) of later phases, in increasing order.
        weighted: False for an evaluation.
    """

    def __init__(
        self,
        plans: Sequence[RowPlan],
        shares: Shares,
        later: Sequence[tuple[int, Shares]] = (),
        *,
        weighted: bool = True,
    ):
        self.plans = tuple(plans)
        self.shares = tuple(shares)
        self._later = tuple((first, tuple(after)) for first, after in later)
        self._weighted = weighted
        self._firsts = [0, *(first for first, _ in self._later)]
        self._borders = [_borders(part) for part in (shares, *(after for _, after in self._later))]
        self._blocks: OrderedDict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = OrderedDict()
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
        content += [self._later] if self._later else []
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def num_rows(self, epoch: int = 0) -> int:
        """Rows of one epoch of every component."""
        return sum(plan.num_rows(epoch) for plan in self.plans)

    def efficiency(self, epoch: int = 0) -> dict[str, float]:
        """Fractions of positions and of predicted frames that are not padding, at first."""
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
        phase, block, place = self._locate(row)
        chosen, ranks = self._block(phase, block)
        component = int(chosen[place])
        return component, int(self._rows_before_block(phase, block)[component] + ranks[place])

    def rows_before(self, row: int) -> list[int]:
        """How many of the rows before `row` come from each component."""
        if len(self.plans) == 1:
            return [row]
        return cast(list[int], self._rows_before(*self._locate(row)).tolist())

    def _locate(self, row: int) -> tuple[int, int, int]:
        """The phase of a row, the block in that phase, and the place in that block."""
        phase = bisect_right(self._firsts, row) - 1
        return phase, *divmod(row - self._firsts[phase], _BLOCK)

    def _rows_before(self, phase: int, block: int, place: int) -> np.ndarray:
        """Rows (C,) of each component before a place."""
        chosen = self._block(phase, block)[0][:place]
        within = np.bincount(chosen, minlength=len(self.plans))
        return self._rows_before_block(phase, block) + within

    def _rows_before_block(self, phase: int, block: int) -> np.ndarray:
        """Rows (C,) of each component before a block: its share of them, to within one row."""
        return self._rows_before_phase[phase] + _rounded(self._borders[phase], block)

    @functools.cached_property
    def _rows_before_phase(self) -> list[np.ndarray]:
        """Rows (C,) of each component before every phase; a phase may end within a block."""
        before = [np.zeros(len(self.plans), np.int64)]
        for phase, (first, end) in enumerate(zip(self._firsts, self._firsts[1:], strict=False)):
            block, place = divmod(end - first, _BLOCK)
            chosen = self._block(phase, block)[0][:place]
            within = np.bincount(chosen, minlength=len(self.plans))
            before.append(before[-1] + _rounded(self._borders[phase], block) + within)
        return before

    def _block(self, phase: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Component (N,) of each row of a block, and its rank (N,) among that component's rows."""
        with self._lock:
            if (phase, block) not in self._blocks:
                borders = self._borders[phase]
                counts = _rounded(borders, block + 1) - _rounded(borders, block)
                # A later phase draws anew, whatever stands between it and the beginning.
                since = (self._firsts[phase],) if phase else ()
                seed = np.random.SeedSequence((self.config.seed, block, MIXTURE_VERSION, *since))
                keys = np.random.Philox(seed).random_raw(_BLOCK)
                chosen = np.repeat(np.arange(len(counts)), counts)[np.argsort(keys, kind="stable")]
                ranks = np.empty(_BLOCK, np.int64)
                ranks[np.argsort(chosen, kind="stable")] = np.arange(_BLOCK)
                first = np.concatenate([[0], np.cumsum(counts)[:-1]])
                self._blocks[phase, block] = chosen, ranks - first[chosen]
                while len(self._blocks) > _CACHED_BLOCKS:
                    self._blocks.popitem(last=False)
            return self._blocks[phase, block]


def _borders(shares: Shares) -> np.ndarray:
    """Upper borders (C,) of the components in [0, 1]; a component without a share has no width."""
    borders = np.cumsum(shares) / sum(shares)
    borders[np.flatnonzero(shares)[-1] :] = 1.0
    return borders


def _rounded(borders: np.ndarray, block: int) -> np.ndarray:
    """Rows (C,) of each component in a number of blocks from the beginning of a phase."""
    return np.diff(np.floor(block * _BLOCK * borders + 0.5).astype(np.int64), prepend=0)
