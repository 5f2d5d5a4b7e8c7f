"""Rows of a batch from the packing plan and sequence records."""

import dataclasses
import functools

import numpy as np

from data_pipeline.datasets.sequence_dataset import SequenceIndex, SequenceSpec
from data_pipeline.datasets.sequence_records import SequenceReader
from data_pipeline.loading.batches import padding_arrays
from data_pipeline.loading.dataset_rows import RETRY_SECONDS, ComponentRows
from data_pipeline.packing.sequence_plan import SequencePlan
from data_pipeline.runtime.errors import UserError
from data_pipeline.tokens import NO_TARGET
from data_pipeline.tokens.vocabulary import Vocabulary


def build_sequence_row(
    vocabulary: Vocabulary, sequence_length: int, sequences: list[tuple[np.ndarray, np.ndarray]]
) -> dict[str, np.ndarray]:
    """One row of the arrangement "sequences", see `batches`.

    Args:
        vocabulary: of the ids.
        sequence_length: L.
        sequences: ids (n,) and loss mask (n,) of each, see `SequenceRecord`.
    """
    row = padding_arrays("sequences", vocabulary.padding, L=sequence_length)
    here = 0
    for number, (ids, mask) in enumerate(sequences, start=1):
        end = here + len(ids)
        row["tokens"][here:end] = ids
        row["positions"][here:end] = np.arange(len(ids))
        row["segment_ids"][here:end] = number
        row["targets"][here : end - 1] = np.where(mask[1:] == 1, ids[1:], NO_TARGET)
        here = end
    return row


@dataclasses.dataclass(frozen=True)
class SequenceRows(ComponentRows):
    """Rows of complete sequences, see `ComponentRows`."""

    @functools.cached_property
    def spec(self) -> SequenceSpec:
        """Spec of the dataset."""
        return SequenceSpec.load(self.dataset_dir)

    @functools.cached_property
    def index(self) -> SequenceIndex:
        """Lengths of the sequences."""
        return SequenceIndex.load(self.dataset_dir, self.spec, self.split)

    @functools.cached_property
    def reader(self) -> SequenceReader:
        """Reader of the complete split."""
        return SequenceReader(self.dataset_dir, self.split, RETRY_SECONDS)

    def open_reader(self) -> tuple[SequenceReader, SequenceSpec]:
        """The reader of the complete split and the spec of the dataset."""
        return self.reader, self.spec

    def _make_plan(self) -> SequencePlan:
        longest, length = int(self.index.lengths.argmax()), int(self.index.lengths.max())
        if length > self.packing.sequence_length:
            raise UserError(
                f"{self.dataset_dir}: the sequence {self.reader[longest].id} of the split "
                f"{self.split} has {length} ids, sequence_length is "
                f"{self.packing.sequence_length}: raise it, "
                "or build the sequences again with a smaller --max_length"
            )
        return SequencePlan(self.packing, self.index)

    def row(self, number: int) -> dict[str, np.ndarray]:
        """Arrays of a row, see `batches`."""
        records = [self.reader.read(n, int(self.index.lengths[n])) for n in self.plan.row(number)]
        return self._build([(record.ids, record.loss_mask) for record in records])

    def empty_row(self) -> dict[str, np.ndarray]:
        """Arrays of a row of padding."""
        return self._build([])

    def _build(self, sequences: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
        return build_sequence_row(self.spec.vocabulary, self.packing.sequence_length, sequences)
