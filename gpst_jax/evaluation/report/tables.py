"""Results as rows of text, shared by the terminal and the report page."""

from collections import Counter
from collections.abc import Iterable, Iterator

from rich import box
from rich.console import Console
from rich.table import Table

from gpst_jax.evaluation.metrics import registry
from gpst_jax.evaluation.metrics.base import Metric, Row
from gpst_jax.evaluation.metrics.display import Cell, absent_cell, items_of, p_value
from gpst_jax.samples.manifest import SENTENCES, UNSEEN

# How conditions are printed, in the order in which they are shown.
CONDITIONS = {
    "recording": "recording",
    "codec": "recording through the codec",
    "semantic_to_acoustic": "semantic to acoustic",
    "speaker_transfer": "speaker transfer",
    "continuation": "continuation",
    "unconditional": "unconditional (two renditions)",
    "tts": "text to speech",
    "tts_sentences": "text to speech, sentences",
    "voice_conversion": "voice conversion",
    "dialogue": "spoken dialogue",
}

_REASONS = 3  # of failed samples, that are printed for a condition


def condition_name(condition: str) -> str:
    """A condition in words: `tts_unseen` -> "text to speech, unseen voices"."""
    base = condition.removesuffix(UNSEEN)
    words = CONDITIONS.get(base)
    if words is None:
        digits = base.removesuffix(SENTENCES)
        words = CONDITIONS.get(digits, digits.replace("_", " "))
        words += ", sentences" if base.endswith(SENTENCES) else ""
    return words + (", unseen voices" if condition.endswith(UNSEEN) else "")


def in_order(conditions: list[str]) -> list[str]:
    """Conditions in display order: ceilings first, then sentences, those of unseen voices last."""
    order = list(CONDITIONS)

    def rank(name: str) -> tuple[bool, bool, int, str]:
        base = name.removesuffix(UNSEEN)
        sentences = base.endswith(SENTENCES) and base not in order
        base = base.removesuffix(SENTENCES) if sentences else base
        place = order.index(base) if base in order else len(order)
        return name.endswith(UNSEEN), sentences, place, base

    return sorted(conditions, key=rank)


def number(recipe_id: str, value: float | None, signed: bool = False) -> str:
    """A value in the unit of its recipe, for example error rates in per cent."""
    if value is None:
        return "–"  # noqa: RUF001  an en dash is meant
    return registry.kind_of(recipe_id).number(value, signed)


def interval(recipe_id: str, row: Row, signed: bool = False) -> str:
    """The 95 % interval of a row in the same unit, or an empty text."""
    return registry.kind_of(recipe_id).interval(row, signed)


def _floor_name(floor: str) -> str:
    base = floor.removesuffix(UNSEEN)
    names = {name: words for kind in registry.METRICS for name, words in kind.floor_names.items()}
    words = names.get(base, base.replace("_", " "))
    return words + (", unseen voices" if base != floor else "")


def sections(results: Row) -> Iterator[tuple[str, list[tuple[str, Row]]]]:
    """The parts of the main table: title, then (name, recipe id -> row) of its lines."""
    yield (
        "Ceilings",
        [(condition_name(n), results["ceilings"][n]) for n in in_order(list(results["ceilings"]))],
    )
    yield (
        "Modes",
        [(condition_name(n), results["modes"][n]) for n in in_order(list(results["modes"]))],
    )
    yield "Floors", [(_floor_name(name), row) for name, row in results["floors"].items()]


def recipe_columns(results: Row) -> list[str]:
    """Recipe ids in the order of the columns: those that have a row anywhere."""
    lines = [rows for _, lines in sections(results) for _, rows in lines]
    lines += results["differences"].values()
    return [recipe_id for recipe_id in results["recipes"] if any(recipe_id in r for r in lines)]


def has_value(lines: Iterable[Row], recipe_id: str) -> bool:
    """Whether any line (recipe id -> row) has a number of a recipe."""
    return any(rows.get(recipe_id, {}).get("value") is not None for rows in lines)


def failed_lines(results: Row) -> list[tuple[str, str]]:
    """Conditions with samples that failed: (name, how many of how many and the first reasons)."""
    failed, totals = results.get("failed", {}), results.get("settings", {}).get("samples", {})
    lines = []
    for name in in_order(list(failed)):
        reasons = Counter(failed[name].values()).most_common(_REASONS)
        named = "; ".join(f"{count} {reason}" for reason, count in reasons)
        example = next(iter(failed[name]))
        count = f"{len(failed[name])} of {totals.get(name, '?')}"
        lines.append((condition_name(name), f"{count} failed ({named}), such as {example}"))
    return lines


def side_rows(results: Row) -> Iterator[tuple[type[Metric], list[tuple[str, Row]]]]:
    """Rows that belong to no column: each kind that has some, with (condition, row)."""
    modes = results["modes"]
    for kind in registry.METRICS:
        rows = [
            (condition_name(name), modes[name][key])
            for name in in_order(list(modes))
            if (key := kind.side_key(name)) in modes[name]
        ]
        if rows:
            yield kind, rows


# Columns of `details`, and the keys of a row that they are.
_DETAILS = {
    "corpus": "corpus",
    "mean": "mean",
    "median": "median",
    "substitutions": "substitutions",
    "deletions": "deletions",
    "insertions": "insertions",
    "empty": "share_empty",
    "runaway": "share_runaway",
    "unfinished": "share_unfinished",
    "failed": "failed",
}
DETAILS = tuple(_DETAILS)


def details(results: Row) -> Iterator[tuple[str, list[tuple[str, list[Cell]]]]]:
    """What a single error rate hides: recipe id, then (condition, cells of `DETAILS`)."""
    groups = results["ceilings"] | results["modes"]
    for recipe_id in recipe_columns(results):
        rows = [
            (condition_name(name), [_detail(key, groups[name][recipe_id]) for key in DETAILS])
            for name in in_order(list(groups))
            if "substitutions" in groups[name].get(recipe_id, {})
        ]
        if rows:
            yield recipe_id, rows


def _detail(key: str, row: Row) -> Cell:
    value = row.get(_DETAILS[key])
    if value is None:  # older results have fewer
        return Cell()
    if key == "failed":
        return Cell(f"{value} of {row['n']}")
    share = value / row["words"] if key in ("substitutions", "deletions", "insertions") else value
    bounds = row.get(f"{key}_ci95")
    notes = ("[{:.1f}, {:.1f}]".format(*(100 * end for end in bounds)),) if bounds else ()
    return Cell(f"{100 * share:.1f} %", notes)


def difference_notes() -> list[str]:
    """What the kinds state about the units of their differences."""
    return [kind.difference_note for kind in registry.METRICS if kind.difference_note]


def item_note(item: Row) -> str:
    """What is printed below the player of a scored item."""
    notes = [kind.item_note(item) for kind in registry.METRICS]
    return "; ".join(note for note in notes if note)


def print_results(results: Row) -> None:
    """Prints a table per recipe, with ceilings, modes, floors and paired differences."""
    console = Console()
    parts = [(title, lines, False) for title, lines in sections(results)]
    for recipe_id in recipe_columns(results):
        if not has_value(
            (rows for _, lines, _ in parts for _, rows in lines), recipe_id
        ):  # a table would hold reasons alone
            _print_reasons(console, recipe_id, results)
            continue
        table = Table(title=recipe_id, title_justify="left", title_style="bold", box=box.SIMPLE)
        for header in ("", "value", "95 % interval", "items"):
            table.add_column(header, justify="right" if header else "left")
        for _, lines, signed in [*parts, ("", list(results["differences"].items()), True)]:
            rows = [(name, rows[recipe_id]) for name, rows in lines if recipe_id in rows]
            for name, row in rows:
                if row["value"] is None:
                    cell = absent_cell(row)
                    table.add_row(name, "", cell.text, *(cell.notes or ("",)))
                    continue
                value = number(recipe_id, row["value"], signed)
                items = [items_of(row), *([p_value(row)] if row.get("p") is not None else [])]
                table.add_row(name, value, interval(recipe_id, row, signed), ", ".join(items))
            table.add_section()
        console.print(table)
    for kind, rows in side_rows(results):
        for line in kind.side_lines(rows):
            console.print(line)
    for name, text in failed_lines(results):
        console.print(f"{name}: {text}", markup=False)
    for line in results.get("left_out", ()):
        console.print(line, markup=False)


def _print_reasons(console: Console, recipe_id: str, results: Row) -> None:
    """Why a recipe has no number: one line per reason, with the conditions that it is of."""
    conditions: dict[str, list[str]] = {}
    for _, lines in sections(results):
        for name, rows in lines:
            if recipe_id in rows:
                cell = absent_cell(rows[recipe_id])
                conditions.setdefault(" ".join((cell.text, *cell.notes)), []).append(name)
    for reason, names in conditions.items():
        console.print(f"{recipe_id}: {reason} ({', '.join(names)})", markup=False)
