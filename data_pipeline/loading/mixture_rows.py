"""Rows of one dataset or of a mixture of several, in any arrangement."""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Self

import numpy as np

from data_pipeline.loading import mixture
from data_pipeline.loading.dataset_rows import ComponentRows
from data_pipeline.loading.mixture_plan import MixturePlan
from data_pipeline.loading.sequence_rows import SequenceRows
from data_pipeline.loading.token_rows import DatasetRows
from data_pipeline.packing.token_plan import PackingConfig


@dataclasses.dataclass(frozen=True)
class MixtureRows:
    """Rows of one dataset, or of several mixed by their shares.

    Attributes:
        components: each with its own plan.
        shares: each component's share of the rows, at first.
        weighted: sample components by share, without end; otherwise one epoch of each in turn.
        later: (first row, shares from there on) of later phases.
    """

    components: tuple[ComponentRows, ...]
    shares: tuple[float, ...]
    weighted: bool = True
    later: tuple[tuple[int, tuple[float, ...]], ...] = ()

    @classmethod
    def open(
        cls,
        path: str | Path,
        split: str,
        packing: PackingConfig,
        *,
        repeat: bool,
        batch_size: int,
    ) -> Self:
        """Opens a dataset or a mixture.

        Args:
            path: directory of a dataset, or a mixture file, see `mixture`.
            split: of every dataset; those without it are left out.
            packing: how records become rows.
            repeat: rows without end; otherwise one epoch.
            batch_size: rows of a batch, in which changes of the weights are counted.

        Raises:
            UserError: see `mixture.components`.
        """
        parts = mixture.components(path, split, weighted=repeat)
        kind = SequenceRows if packing.arrangement == "sequences" else DatasetRows
        return cls(
            tuple(kind(part.path, split, packing, part.language) for part in parts),
            tuple(part.share for part in parts),
            repeat,
            tuple(
                (changes[0][0] * batch_size, tuple(share for _, share in changes))
                for changes in zip(*(part.later for part in parts), strict=True)
            ),
        )

    @functools.cached_property
    def plan(self) -> MixturePlan:
        """Maps rows to the components' rows."""
        plans = [component.plan for component in self.components]
        return MixturePlan(plans, self.shares, self.later, weighted=self.weighted)

    def __getstate__(self) -> dict[str, Any]:
        """Only the fields, as for `ComponentRows`."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def row(self, number: int | None) -> dict[str, np.ndarray]:
        """Arrays of a row, see `batches`; None gives a row of padding."""
        if number is None:
            return self.components[0].empty_row()
        component, place = self.plan.source(number)
        return self.components[component].row(place)

    def epochs(self, row: int) -> list[list[int]]:
        """For each component, the epoch of its next row at `row`, and that epoch's first row."""
        places = zip(self.components, self.plan.rows_before(row), strict=True)
        return [list(component.plan.locate(place)) for component, place in places]

    def from_epochs(self, epochs: list[list[int]]) -> Self:
        """The same rows, with which worker processes need not plan the epochs before these."""
        resumed = dataclasses.replace(
            self,
            components=tuple(
                component.from_epoch(int(epoch), int(first))
                for component, (epoch, first) in zip(self.components, epochs, strict=True)
            ),
        )
        resumed.__dict__["plan"] = self.plan
        return resumed
