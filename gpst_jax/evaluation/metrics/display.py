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


# Items that are in no number, or in it at its worst value: key of a row, and how it is printed.
_APART = (
    ("failed", "failed"),
    ("unusable_references", "without a readable reference"),
    ("n_empty", "no words"),
    ("n_other_language", "other language"),
)


def items_of(row: dict[str, Any]) -> str:
    """The number of items of a row, of speakers that its interval is over, and of those apart."""
    notes = [f"{row[key]} {words}" for key, words in _APART if row.get(key)]
    interval = row.get("interval") or {}
    if interval.get("over", "items") != "items":
        notes.insert(0, f"{interval['units']} {interval['over']}")
    return ", ".join((str(row.get("n", 0)), *notes))


def p_value(row: dict[str, Any]) -> str:
    """The p-value of a difference in words."""
    return "p < 0.001" if row["p"] < 0.001 else f"p = {row['p']:.3f}"


def absent_cell(row: dict[str, Any]) -> Cell:
    """Why a row has no number, with its items where some were counted apart."""
    counted = any(row.get(key) for key, _ in _APART)
    notes = (f"n = {items_of(row)}",) if counted else ()
    return Cell(row.get("reason", "not available"), notes, missing=True)


def proportion_cell(row: dict[str, Any]) -> Cell:
    """A proportion in per cent, with its interval and the number of items."""
    if row["value"] is None:
        return absent_cell(row)
    bounds = "[{:.0%}, {:.0%}] ".format(*row["ci95"]) if row["ci95"] else ""
    return Cell(f"{row['value']:.0%}", (f"{bounds}n {items_of(row)}",))
