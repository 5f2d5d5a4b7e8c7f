"""The scale of a study: what its cells train, on which tokens, and how they are scored.

`demo_size.DEMO` is that of `make demo`, `pod_size.POD` that of one slice of a pod. Study files make
the same study at either (`get_study()` in `experiments/study_files/` and in its `pods/`).
"""

import dataclasses

from data_pipeline.tokens import TokenLayout
from experiments.common import load_config
from gpst_jax.config import RunConfig
from gpst_jax.studies import calls, cost
from gpst_jax.studies.definition import Call, Cell
from gpst_jax.studies.figures import Figure


@dataclasses.dataclass(frozen=True)
class Scale:
    """One scale.

    Attributes:
        folder: of its studies' names; empty for the demo's.
        config: file of the configuration that cells override.
        layout: of its dataset.
        steps: of that configuration; their training FLOPs are the budget of every cell.
        scored: flags of `experiments.evaluate` for a trained cell, such as `--items=60`.
        figures: what a trained cell is scored by.
        notes: what the numbers are about, for every page.
    """

    folder: str
    config: str
    layout: TokenLayout
    steps: int
    scored: tuple[str, ...]
    figures: tuple[Figure, ...]
    notes: tuple[str, ...]

    def name(self, study: str) -> str:
        """The name of a study at this scale."""
        return f"{self.folder}/{study}" if self.folder else study

    def run(self, *overrides: str) -> RunConfig:
        """The configuration with overrides."""
        return load_config(self.config).override(overrides)

    def budget(self, share: float = 1.0) -> float:
        """Training FLOPs of a share of the steps."""
        return share * self.steps * (cost.flops_per_step(self.run(), self.layout) or 0.0)

    def equal(
        self, *overrides: str, share: float = 1.0, layout: TokenLayout | None = None
    ) -> tuple[str, ...]:
        """Overrides with the steps that the budget allows the model that they make."""
        made = self.run(*overrides)
        steps = cost.steps_for(self.budget(share), made, layout or self.layout)
        return (*overrides, f"train.steps={steps}")

    def trained(
        self,
        name: str,
        *overrides: str,
        config: str = "",
        place: float | None = None,
        prepare: tuple[Call, ...] = (),
        tokens: str = "{tokens}",
        layout: TokenLayout | None = None,
        scored: tuple[str, ...] | None = None,
    ) -> Cell:
        """A cell that trains a configuration and scores held-out recordings.

        Args:
            name: of the cell.
            *overrides: `section.field=value`.
            config: file of the configuration, where it is not that of the scale.
            place: on the axis of the plot.
            prepare: programs before, see `Cell`.
            tokens: its dataset.
            layout: of that dataset, where it is not that of the scale.
            scored: flags of `experiments.evaluate`, where they are not those of the scale.
        """
        flags = self.scored if scored is None else scored
        evaluated = calls.evaluate_run(*flags, tokens=tokens)
        made = config or self.config
        return Cell(name, made, overrides, (evaluated,), prepare, tokens, place, layout)
