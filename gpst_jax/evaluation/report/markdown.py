"""The tables of the results as Markdown, for issues and papers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gpst_jax.evaluation.metrics import registry
from gpst_jax.evaluation.metrics.display import Cell
from gpst_jax.evaluation.report import tables


def markdown(results: dict[str, Any], title: str, summary: str = "") -> str:
    """The results as a Markdown page.

    Args:
        results: as `suite.evaluate` returns them.
        title: heading of the page.
        summary: a paragraph below the heading.
    """
    columns = tables.recipe_columns(results)
    parts = [f"# {escaped(title)}", escaped(summary)]
    for heading, lines in tables.sections(results):
        rows = [(name, cells(columns, of)) for name, of in lines]
        parts += table(heading, columns, rows)
    shown = [c for c in columns if tables.has_value(results["differences"].values(), c)]
    differences = [
        (_pair(name), cells(shown, rows, signed=True))
        for name, rows in results["differences"].items()
    ]
    parts += table("Paired differences", shown, differences)
    for kind, side_rows in tables.side_rows(results):
        side = kind.side_table(side_rows)
        parts += table(side.title, side.columns, side.rows)
    for recipe_id, details in tables.details(results):
        parts += table(f"Word errors in detail: {recipe_id}", tables.DETAILS, details)
    failed = [f"* {escaped(name)}: {escaped(text)}" for name, text in tables.failed_lines(results)]
    parts += ["## Failed samples", "\n".join(failed)] if failed else []
    parts += [escaped(line) for line in results.get("left_out", ())]
    recipes = [
        f"* `{name}` version {recipe['version']}: {escaped(recipe['model'])}. "
        f"{escaped(recipe['normalisation'])}. {escaped(recipe['aggregation'])}."
        for name, recipe in results["recipes"].items()
    ]
    parts += ["## Recipes", "\n".join(recipes)] if recipes else []
    return "\n\n".join(part for part in parts if part) + "\n"


def cells(columns: Iterable[str], rows: Mapping[str, Any], signed: bool = False) -> list[Cell]:
    """The cells of a line (recipe id -> row)."""
    return [registry.kind_of(c).cell(rows.get(c), signed) for c in columns]


def table(
    heading: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell]]]
) -> list[str]:
    """A heading and a table; nothing where there are no rows or no columns."""
    if not rows or not columns:
        return []
    lines = [["", *map(escaped, columns)], ["---"] * (len(columns) + 1)]
    lines += [[escaped(name), *map(_text, of)] for name, of in rows]
    lines = [line + [""] * (len(columns) + 1 - len(line)) for line in lines]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return [f"## {escaped(heading)}", body]


def escaped(text: Any) -> str:
    """Text in one line, with what Markdown would read as its own escaped."""
    line = " ".join(str(text).split())
    for character in "\\`*_|<>#":
        line = line.replace(character, f"\\{character}")
    return line


def _text(cell: Cell) -> str:
    return escaped(" ".join(part for part in (cell.text, *cell.notes) if part))


def _pair(name: str) -> str:
    a, b = (tables.condition_name(part) for part in name.split(" - "))
    return f"{a} minus {b}"
