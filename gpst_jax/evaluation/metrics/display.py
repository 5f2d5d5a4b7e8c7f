"""Table cells as text, rendered by the terminal and by the report page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cell:
    """One value with its small print, or the reason for its absence."""

    text: str = ""
    notes: tuple[str, ...] = ()  # below the value: interval, number of items
    missing: bool = False  # the text is a reason


@dataclass(frozen=True)
class Table:
    """A table of the report page; rows may be shorter than the head."""

    title: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]


def proportion_cell(row: dict[str, Any]) -> Cell:
    """A proportion in per cent, with its interval and the number of items."""
    if row["value"] is None:
        return Cell(row["reason"], missing=True)
    bounds = "[{:.0%}, {:.0%}] ".format(*row["ci95"]) if row["ci95"] else ""
    return Cell(f"{row['value']:.0%}", (f"{bounds}n {row['n']}",))
