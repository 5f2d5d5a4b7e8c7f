"""The report page: one self-contained HTML file with audio, pictures and numbers.

It makes no network requests, needs no script, and follows the reader's light or dark setting.
"""

import html
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_text
from gpst_jax.evaluation.metrics.display import Cell
from gpst_jax.evaluation.metrics.optional_packages import require
from gpst_jax.evaluation.metrics.statistics import FEWEST_SPEAKERS, LEVEL
from gpst_jax.evaluation.report import players, tables
from gpst_jax.evaluation.report.distributions import distributions_section
from gpst_jax.evaluation.report.markdown import cells, markdown
from gpst_jax.evaluation.report.players import escape
from gpst_jax.evaluation.report.style import STYLE
from gpst_jax.evaluation.report.training import training_section
from gpst_jax.evaluation.transcripts.alignment import (
    RUNAWAY_TIMES,
    RUNAWAY_WORDS,
    UNFINISHED_PART,
    UNFINISHED_WORDS,
)

MAX_BYTES = 15_000_000


# The tables.


def _html(cell: Cell) -> str:
    notes = "".join(f"<small>{escape(note)}</small>" for note in cell.notes)
    if cell.missing:
        return f'<td class="none">{escape(cell.text)}{notes}</td>'
    if not cell.notes:
        return f"<td>{escape(cell.text)}</td>"
    return f"<td><b>{escape(cell.text)}</b>{notes}</td>"


def _row(head: str, cells: Iterable[Cell]) -> str:
    return f'<tr><th scope="row">{head}</th>{"".join(map(_html, cells))}</tr>'


def _table(columns: Iterable[str], body: str) -> str:
    head = "".join(f"<th>{escape(c).replace('/', '/<wbr>')}</th>" for c in columns)
    return (
        f'<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def html_table(columns: Iterable[str], rows: Iterable[tuple[str, Iterable[Cell]]]) -> str:
    """A table with a head, of lines that begin with a name."""
    return _table(columns, "".join(_row(escape(name), line) for name, line in rows))


def _main_table(results: dict[str, Any]) -> str:
    columns = tables.recipe_columns(results)
    body = ""
    for title, lines in tables.sections(results):
        if lines:
            body += f'<tr class="part"><th colspan="{len(columns) + 1}">{title}</th></tr>'
        for name, rows in lines:
            body += _row(escape(name), cells(columns, rows))
    if not columns:
        return ""
    caption = (
        f"Point estimates with {LEVEL:.0%} intervals and the number n of items. Where items of "
        f"{FEWEST_SPEAKERS} speakers or more are known, intervals are over speakers, whose number "
        "stands beside n; else they are over items, for other utterances of the same speakers. The "
        "recording and the recording through the codec are ceilings; another speaker and shuffled "
        "transcripts are floors."
    )
    return f"<h2>Results</h2><p>{caption}</p>" + _table(columns, body)


def _difference_table(results: dict[str, Any]) -> str:
    lines = results["differences"].values()
    columns = [c for c in tables.recipe_columns(results) if tables.has_value(lines, c)]
    if not columns:
        return ""
    body = ""
    for name, rows in results["differences"].items():
        a, b = (escape(tables.condition_name(part)) for part in name.split(" - "))
        body += _row(f"{a}<br>minus {b}", cells(columns, rows, signed=True))
    caption = (
        "On the same items, so that an item's own difficulty cancels; p is the chance of such a "
        "difference where the two are alike, by swapping them at random."
    )
    caption = " ".join([caption, *tables.difference_notes()])
    return f"<h2>Paired differences</h2><p>{caption}</p>" + _table(columns, body)


def _side_tables(results: dict[str, Any]) -> str:
    """The tables of the kinds whose rows are no columns of the main table."""
    out = ""
    for kind, rows in tables.side_rows(results):
        table = kind.side_table(rows)
        caption = html.escape(table.caption, quote=False)
        out += f"<h2>{table.title}</h2><p>{caption}</p>" + html_table(table.columns, table.rows)
    return out


def _details(results: dict[str, Any]) -> str:
    """Kinds of word errors, and items that have none of their words or too many."""
    out = ""
    for recipe_id, rows in tables.details(results):
        out += f"<h3><code>{escape(recipe_id)}</code></h3>" + html_table(tables.DETAILS, rows)
    if not out:
        return ""
    caption = (
        "The corpus rate, the mean and the median over items; substitutions, deletions and "
        "insertions per word of the references; shares of items that are empty, that run away "
        f"(above {RUNAWAY_TIMES:g} times the words of the reference, and {RUNAWAY_WORDS} more), "
        f"and that break off before at least {UNFINISHED_WORDS} words and {UNFINISHED_PART:.0%} "
        "of the reference."
    )
    return f"<h2>Word errors in detail</h2><p>{caption}</p>{out}"


def _failed_list(results: dict[str, Any]) -> str:
    lines = tables.failed_lines(results)
    if not lines:
        return ""
    entries = "".join(f"<li>{escape(name)}: {escape(text)}</li>" for name, text in lines)
    return f"<h2>Failed samples</h2><ul>{entries}</ul>"


def _left_out(results: dict[str, Any]) -> str:
    """What could not be measured on this machine, and how to get it."""
    return "".join(f"<p>{escape(line)}</p>" for line in results.get("left_out", ()))


def _recipe_list(results: dict[str, Any]) -> str:
    entries = ""
    for name, recipe in results["recipes"].items():
        weights = f" Weights from {escape(recipe['weights'])}." if recipe["weights"] else ""
        if sha256 := recipe.get("weights_sha256"):
            weights += f" SHA-256 {escape(sha256)}."
        packages = ", ".join(f"{k} {v}" for k, v in recipe["packages"].items())
        entries += (
            f"<dt><code>{escape(name)}</code> version {recipe['version']}</dt>"
            f"<dd>{escape(recipe['model'])}. Input at {recipe['sample_rate']} Hz: "
            f"{escape(recipe['normalisation'])}. "
            f"Aggregation: {escape(recipe['aggregation'])}. Packages: {escape(packages)}."
            f"{weights}</dd>"
        )
    return f"<h2>Recipes</h2><dl>{entries}</dl>" if entries else ""


# Other results, as tables of key and value.


def _facts(title: str, facts: dict[str, Any], unit: str = "") -> str:
    if not facts:
        return ""
    body = "".join(
        f'<tr><th scope="row">{escape(key)}</th><td>{escape(_fact(value))}{unit}</td></tr>'
        for key, value in facts.items()
    )
    table = f'<table class="facts"><tbody>{body}</tbody></table>'
    return f'<h2>{title}</h2><div class="scroll">{table}</div>'


def _fact(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, list | tuple):
        return ", ".join(_fact(part) for part in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_fact(part)}" for key, part in value.items())
    return str(value)


def document(title: str, body: str, script: str = "", style: str = "") -> str:
    """A whole page around HTML, with a script and further style where it needs them."""
    scripted = f"<script>{script}</script>" if script else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head>"
        f"<body><main>{body}</main>{scripted}</body></html>\n"
    )


def render_report(
    results: dict[str, Any],
    samples_dir: str | Path | None,
    metrics_path: str | Path | None,
    output: str | Path,
    title: str,
    *,
    items: dict[str, list[dict[str, Any]]] | None = None,
    summary: str = "",
) -> None:
    """Writes the report page, and its tables as Markdown beside it (`.md`).

    Args:
        results: as `suite.evaluate` returns them; `timings_s`, `train`, `config` and `settings`
            are shown as tables where present.
        samples_dir: the samples, for the players; None leaves them out.
        metrics_path: metrics.jsonl of the training run, for the curves; None leaves them out.
        output: the HTML file.
        title: heading of the page.
        items: scores of single items from `suite.evaluate`, to show transcripts.
        summary: a paragraph below the heading on what was run.

    Raises:
        UserError: a package is missing, an input cannot be read, the page cannot be written or
            would exceed 15 MB.
    """
    require("the report", {"matplotlib": "matplotlib"}, "demo")
    require("the report", {"librosa": "librosa"}, "eval")
    by_id = {n: {item["id"]: item for item in group} for n, group in (items or {}).items()}
    paragraph = f"<p>{escape(summary)}</p>" if summary else ""
    body = [
        f"<header><h1>{escape(title)}</h1>{paragraph}</header>",
        _main_table(results),
        _left_out(results),
        _difference_table(results),
        _side_tables(results),
        _details(results),
        _failed_list(results),
        distributions_section(items or {}, next(iter(results["recipes"]), "")),
        players.listening_section(samples_dir, by_id) if samples_dir is not None else "",
        training_section(metrics_path) if metrics_path is not None else "",
        _facts("Training run", results.get("train", {})),
        _facts("Time", results.get("timings_s", {}), " s"),
        _recipe_list(results),
        _facts("Evaluation settings", results.get("settings", {})),
        _facts("Configuration", results.get("config", {})),
    ]
    page = document(title, "".join(body))
    if len(page.encode()) > MAX_BYTES:
        raise UserError(f"{output}: the page would exceed {MAX_BYTES / 1e6:g} MB")
    write_text(output, page)
    beside = os.path.splitext(output)[0] + ".md"  # perhaps in a bucket
    write_text(beside, markdown(results, title, summary))
