"""What a study is: cells, seeds, figures and comparisons, as frozen data.

A study asks one question. A *cell* is one answer to it: a configuration that is trained, or a
condition under which a finished run is scored. A cell is run once for each *seed*; a *figure* is a
number of it, and a *comparison* is a difference of figures between two cells.

Programs are named with their flags, in which names in braces stand for paths and numbers:

| name | stands for |
|---|---|
| `{tokens}`, `{audio_dir}`, `{run}`, `{lm_run}` | inputs, which the command line gives |
| `{cell}` | directory of this cell and seed |
| `{shared}` | directory of what cells share |
| `{seed}` | the seed |

So a definition names no path of any machine, and has the same hash everywhere.
"""

import dataclasses
import re
import string
from collections.abc import Sequence
from typing import Any

from data_pipeline.runtime import exit_codes
from data_pipeline.runtime.errors import UserError
from data_pipeline.tokens import TokenLayout
from gpst_jax.studies.figures import Figure

INPUTS = ("tokens", "audio_dir", "run", "lm_run")
TRAIN = "train"  # the step that trains a cell, and the directory of its run
FEWEST_SEEDS = 3  # below this many a difference is called one of single runs
_TRAINERS = ("experiments.pretrain", "experiments.finetune")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_STUDY_NAME = re.compile(rf"(?:{_NAME.pattern}/)?{_NAME.pattern}")


@dataclasses.dataclass(frozen=True)
class Call:
    """One program of a cell, `python -m PROGRAM FLAGS`, that goes on where it was interrupted.

    Attributes:
        step: its name, unique in the cell.
        program: a module, such as `experiments.generate`.
        flags: with names in braces, see the module.
        accept: exit codes with which it has done its work.
    """

    step: str
    program: str
    flags: tuple[str, ...]
    accept: tuple[int, ...] = (exit_codes.OK, exit_codes.PARTIAL)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One configuration or condition.

    Attributes:
        name: of folders and of the table: small letters, digits, `_`, `.` and `-`.
        config: file of the configuration that is trained; empty: nothing is trained.
        overrides: `section.field=value` of that configuration.
        calls: programs after the training, in order.
        prepare: programs before it, whose results lie in `{shared}`; those of one step are the same
            in every cell and are run once.
        tokens: dataset that it is trained on.
        place: where it stands on the axis of the plot; None: by its name.
        layout: of its dataset, where it is not that of the study.
    """

    name: str
    config: str = ""
    overrides: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()
    prepare: tuple[Call, ...] = ()
    tokens: str = "{tokens}"
    place: float | None = None
    layout: TokenLayout | None = None

    def steps(self) -> tuple[Call, ...]:
        """All programs of a seed in their order, the training among them."""
        return (*self.prepare, *((self._training(),) if self.config else ()), *self.calls)

    def seeded(self) -> tuple[str, ...]:
        """The overrides, the seed among them."""
        return (*self.overrides, "data.seed={seed}", "train.seed={seed}")

    def _training(self) -> Call:
        fields = [f"--config.{field}" for field in (f"data.path={self.tokens}", *self.seeded())]
        where = ("--workdir={cell}/train", "--json_out={cell}/train.json")
        return Call(
            TRAIN,
            "experiments.pretrain",
            (f"--config={self.config}", *fields, *where),
            (exit_codes.OK,),
        )


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Cells that are compared with a base, on all figures of items."""

    base: str
    cells: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Study:
    """A question and how it is answered.

    Attributes:
        name: of its page and its folder of results; may begin with a folder, as `pods/pattern`.
        question: in one sentence.
        cells: at least one.
        figures: columns of the table; those that are compared have items.
        seeds: of every cell.
        comparisons: differences that are asked for.
        analyses: further readings of the cells, such as the knee of a curve.
        axis: label of the plot's axis, where cells have places.
        notes: what the numbers are about and what they do not say, one sentence each.
        layout: of the dataset that its cost is computed for before it has been run.
    """

    name: str
    question: str
    cells: tuple[Cell, ...]
    figures: tuple[Figure, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    comparisons: tuple[Comparison, ...] = ()
    analyses: tuple[Any, ...] = ()
    axis: str = ""
    notes: tuple[str, ...] = ()
    layout: TokenLayout | None = None

    def __post_init__(self) -> None:
        names = [(_STUDY_NAME, self.name), *((_NAME, cell.name) for cell in self.cells)]
        for pattern, name in names:
            if not pattern.fullmatch(name):
                raise UserError(
                    f"study {self.name!r}: the name {name!r} is to be of small letters, digits, "
                    "'_', '.' and '-'"
                )
        _unique(self.name, "cells", [cell.name for cell in self.cells])
        _unique(self.name, "figures", [figure.key for figure in self.figures])
        _unique(self.name, "seeds", list(map(str, self.seeds)))
        for cell in self.cells:
            _unique(f"{self.name}, cell {cell.name}", "steps", [call.step for call in cell.steps()])
            unknown = placeholders(cell) - {*INPUTS, "cell", "shared", "seed"}
            if unknown:
                raise UserError(
                    f"study {self.name!r}, cell {cell.name}: {{{sorted(unknown)[0]}}} stands for "
                    f"nothing; there are {', '.join(INPUTS)}, cell, shared and seed"
                )
        known = {cell.name for cell in self.cells}
        for comparison in self.comparisons:
            for name in (comparison.base, *comparison.cells):
                if name not in known:
                    raise UserError(f"study {self.name!r}: compares {name!r}, which is no cell")

    @property
    def trained(self) -> bool:
        """Whether seeds are trained anew; else cells are conditions of one run."""
        return any(call.program in _TRAINERS for cell in self.cells for call in cell.steps())

    def cell(self, name: str) -> Cell:
        """The cell of that name; raises UserError where there is none."""
        for cell in self.cells:
            if cell.name == name:
                return cell
        raise UserError(
            f"--cells={name}: study {self.name!r} has {', '.join(cell.name for cell in self.cells)}"
        )

    def inputs(self) -> list[str]:
        """The inputs that its cells need, in the order of `INPUTS`."""
        named = set().union(*(placeholders(cell) for cell in self.cells))
        return [name for name in INPUTS if name in named]


def placeholders(cell: Cell) -> set[str]:
    """The names in braces of a cell."""
    texts = [flag for call in cell.steps() for flag in call.flags]
    return {name for text in texts for _, name, _, _ in string.Formatter().parse(text) if name}


def _unique(where: str, what: str, names: Sequence[str]) -> None:
    if not names:
        raise UserError(f"study {where}: has no {what}")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"study {where}: {what} are to differ, {name!r} occurs twice")
