"""Rows of one dataset or of a mixture of several, of whatever arrangement."""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Self

import numpy as np

from data_pipeline.loading import mixture
from data_pipeline.loading.dataset_rows import ComponentRows
from data_pipeline.loading.mixture import MixturePlan
from data_pipeline.loading.sequence_rows import SequenceRows
from data_pipeline.loading.token_rows import DatasetRows
from data_pipeline.packing.token_plan import PackingConfig


@dataclasses.dataclass(frozen=True)
class MixtureRows:
    """Rows of one dataset or of several, in their shares.

    Attributes:
        components: each with a plan of its own.
        shares: of the rows, one for each component.
        weighted: by shares for ever; otherwise each component's first pass in turn.
    """

    components: tuple[ComponentRows, ...]
    shares: tuple[float, ...]
    weighted: bool = True

    @classmethod
    def open(cls, path: str | Path, split: str, packing: PackingConfig, *, repeat: bool) -> Self:
        """Opens a dataset or a mixture.

        Args:
            path: directory of a dataset, or a mixture file, see `mixture`.
            split: of every dataset; those without it are left out.
            packing: how records become rows.
            repeat: go on for ever.

        Raises:
            UserError: see `mixture.components`.
        """
        parts = mixture.components(path, split)
        kind = SequenceRows if packing.arrangement == "sequences" else DatasetRows
        return cls(
            tuple(kind(part.path, split, packing, part.language) for part in parts),
            tuple(part.share for part in parts),
            repeat,
        )

    @functools.cached_property
    def plan(self) -> MixturePlan:
        """Which row is which component's."""
        plans = [component.plan for component in self.components]
        return MixturePlan(plans, self.shares, weighted=self.weighted)

    def __getstate__(self) -> dict[str, Any]:
        """Only the fields, as of `ComponentRows`."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def row(self, number: int | None) -> dict[str, np.ndarray]:
        """Arrays of a row, see `ComponentRows.row`; None gives an empty one."""
        if number is None:
            return self.components[0].empty_row()
        component, place = self.plan.source(number)
        return self.components[component].row(place)

    def epochs(self, row: int) -> list[list[int]]:
        """Of each component the pass that its next row at `row` lies in, and its first row."""
        places = zip(self.components, self.plan.drawn(row), strict=True)
        return [list(component.plan.locate(place)) for component, place in places]

    def from_epochs(self, epochs: list[list[int]]) -> Self:
        """The same rows for processes to come that need not plan the passes before these."""
        later = dataclasses.replace(
            self,
            components=tuple(
                component.from_pass(int(number), int(first))
                for component, (number, first) in zip(self.components, epochs, strict=True)
            ),
        )
        later.__dict__["plan"] = self.plan
        return later
