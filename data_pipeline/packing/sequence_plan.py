"""The packing plan of a sequence dataset: which sequences share a row.

Each epoch shuffles the sequences and packs them into rows of `sequence_length` by first-fit
decreasing. Nothing is cut or joined: attention stays within a sequence.
"""

import dataclasses
import hashlib
import json

import numpy as np

from data_pipeline.datasets.sequence_dataset import SequenceIndex
from data_pipeline.packing.first_fit import pack, reorder_rows
from data_pipeline.packing.plan import RandomKeys, RowPlan
from data_pipeline.packing.token_plan import PackingConfig
from data_pipeline.runtime.errors import UserError

# Part of the fingerprint: raise it with any change that alters a plan.
PLAN_VERSION = 1


@dataclasses.dataclass(frozen=True, eq=False)
class _Epoch:
    members: np.ndarray  # sequence numbers, row after row
    starts: np.ndarray  # (rows + 1,) offsets into members

    @property
    def num_rows(self) -> int:
        return len(self.starts) - 1


class SequencePlan(RowPlan[_Epoch]):
    """Rows of complete sequences over endless epochs."""

    def __init__(self, config: PackingConfig, index: SequenceIndex):
        """No sequence may be longer than a row; raises UserError where there are none."""
        super().__init__()
        if not len(index):
            raise UserError("the split has no sequences")
        self.config: PackingConfig = config
        self._index = index

    def _fingerprint(self) -> str:
        content = {
            "version": PLAN_VERSION,
            "row_length": self.config.sequence_length,
            "seed": self.config.seed,
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
        digest.update(self._index.lengths.tobytes())
        return digest.hexdigest()

    def efficiency(self, epoch: int = 0) -> dict[str, float]:
        """Fraction of an epoch's positions that are not padding."""
        positions = self._plan(epoch).num_rows * self.config.sequence_length
        return {"positions": int(self._index.lengths.sum()) / positions}

    def row(self, row: int) -> list[int]:
        """Numbers of the sequences in a row, 0 <= row."""
        epoch, first = self.locate(row)
        plan = self._plan(epoch)
        start, stop = plan.starts[row - first : row - first + 2]
        return plan.members[start:stop].tolist()

    def _make(self, number: int) -> _Epoch:
        random = RandomKeys(self.config.seed, number)
        lengths, budget = self._index.lengths.astype(np.int64), self.config.sequence_length
        members, starts = pack(lengths, lengths, budget, budget, random.permutation(len(lengths)))
        members, starts = reorder_rows(members, starts, random.permutation(len(starts) - 1))
        return _Epoch(members, starts)
