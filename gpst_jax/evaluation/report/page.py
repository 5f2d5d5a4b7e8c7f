"""The report page: one HTML file with its sounds, pictures and numbers inside.

It loads nothing from anywhere, needs no script, and follows the reader's light or dark setting.
"""

import json
import math
from pathlib import Path
from typing import Any

from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_text
from gpst_jax.evaluation.metrics.optional_packages import require
from gpst_jax.evaluation.metrics.statistics import LEVEL
from gpst_jax.evaluation.report import players, plots, tables
from gpst_jax.evaluation.report.players import data_uri, escape
from gpst_jax.evaluation.report.style import STYLE

MAX_BYTES = 15_000_000


# The tables.


def _cell(recipe_id: str, row: dict[str, Any] | None, signed: bool = False) -> str:
    if row is None:
        return "<td></td>"
    if row.get("value") is None:
        return f'<td class="none">{escape(row.get("reason", "not available"))}</td>'
    value = escape(tables.number(recipe_id, row["value"], signed))
    bounds = escape(tables.interval(recipe_id, row, signed))
    failed = f", {row['failed']} failed" if row.get("failed") else ""
    return f"<td><b>{value}</b><small>{bounds}</small><small>n = {row['n']}{failed}</small></td>"


def _main_table(results: dict[str, Any]) -> str:
    columns = tables.recipe_columns(results)
    head = "".join(f"<th>{escape(c).replace('/', '/<wbr>')}</th>" for c in columns)
    body = ""
    for title, lines in tables.sections(results):
        if lines:
            body += f'<tr class="part"><th colspan="{len(columns) + 1}">{title}</th></tr>'
        for name, rows in lines:
            cells = "".join(_cell(c, rows.get(c)) for c in columns)
            body += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
    return _table(head, body)


def _table(head: str, body: str) -> str:
    return (
        f'<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _difference_table(results: dict[str, Any]) -> str:
    if not results["differences"]:
        return ""
    columns = tables.recipe_columns(results)
    head = "".join(f"<th>{escape(c).replace('/', '/<wbr>')}</th>" for c in columns)
    body = ""
    for name, rows in results["differences"].items():
        a, b = (tables.condition_name(part) for part in name.split(" - "))
        cells = "".join(_cell(c, rows.get(c), signed=True) for c in columns)
        body += f'<tr><th scope="row">{escape(a)}<br>minus {escape(b)}</th>{cells}</tr>'
    return (
        "<h2>Paired differences</h2><p>On the same items, so that an item's own difficulty cancels."
        " Word error rates in points.</p>" + _table(head, body)
    )


def _voice_table(results: dict[str, Any]) -> str:
    rows = tables.voice_rows(results)
    if not rows:
        return ""
    kinds = (
        (None, "generated"),
        ("prompt_reference_codec_audio", "prompt speaker through the codec"),
        ("prompt_reference_audio", "prompt speaker, recording"),
    )
    head = "<th>nearer to the prompt</th><th>cosine to prompt</th><th>cosine to source</th>"
    body = ""
    for name, row in rows:
        if row["value"] is None:
            reason = f'<td class="none">{escape(row["reason"])}</td>'
            body += f'<tr><th scope="row">{escape(name)}</th>{reason}</tr>'
            continue
        for key, label in kinds:
            part = row if key is None else row.get(key)
            if part is None:
                continue
            low, high = part["ci95"]
            body += (
                f'<tr><th scope="row">{escape(name)}: {label}</th><td><b>{part["value"]:.0%}</b>'
                f"<small>[{low:.0%}, {high:.0%}] n {part['n']}</small></td>"
                f"<td>{_plain(part['similarity_to_prompt'])}</td>"
                f"<td>{_plain(part['similarity_to_source'])}</td></tr>"
            )
    first = rows[0][1]
    return (
        "<h2>Whose voice is it?</h2><p>Share of transferred samples whose voice "
        f"({escape(first['recipe'])}) is nearer to the prompt's recording than to the "
        "source's, over pairs of speakers whose mean embeddings have a cosine below "
        f"{first['threshold']:g}.</p>" + _table(head, body)
    )


def _answer_table(results: dict[str, Any]) -> str:
    rows = tables.answer_rows(results)
    if not rows:
        return ""
    head = "<th>as heard</th><th>as written</th><th>question understood</th><th>speech of text</th>"
    body = ""
    for name, row in rows:
        shares = "".join(
            f"<td><b>{part['value']:.0%}</b><small>[{part['ci95'][0]:.0%}, {part['ci95'][1]:.0%}] "
            f"n {part['n']}</small></td>"
            for part in (row, row["written"])
        )
        chain = "".join(
            _cell("wer/", row[link]) for link in ("question_transcript", "speech_from_text")
        )
        body += f'<tr><th scope="row">{escape(name)}</th>{shares}{chain}</tr>'
    return (
        "<h2>Right answers</h2><p>Share of spoken questions that are answered rightly, by the "
        f"judge {escape(rows[0][1]['judge'])}: in what a recogniser hears, and in what the model "
        "wrote before it spoke. Beside it the word errors of the chain: of the question as the "
        "model understood it, and of its speech against its own text.</p>" + _table(head, body)
    )


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"  # noqa: RUF001


def _recipe_list(results: dict[str, Any]) -> str:
    entries = ""
    for name, recipe in results["recipes"].items():
        weights = f" Weights from {escape(recipe['weights'])}." if recipe["weights"] else ""
        packages = ", ".join(f"{k} {v}" for k, v in recipe["packages"].items())
        entries += (
            f"<dt><code>{escape(name)}</code> version {recipe['version']}</dt>"
            f"<dd>{escape(recipe['model'])}. Input at {recipe['sample_rate']} Hz: "
            f"{escape(recipe['normalisation'])}. "
            f"Aggregation: {escape(recipe['aggregation'])}. Packages: {escape(packages)}."
            f"{weights}</dd>"
        )
    return f"<h2>Recipes</h2><dl>{entries}</dl>"


# The training run.


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """Reads metrics.jsonl: one object with `step` for each line; a torn last line is passed over.

    Raises:
        UserError: the file cannot be read, or another line is no such object.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            rows.append({"step": row["step"], **row})
        except (json.JSONDecodeError, KeyError, TypeError):
            if number < len(lines):
                raise UserError(f"{path} line {number}: not an object with a step") from None
    return rows


def _curve(rows: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    points = [(r["step"], r[key]) for r in rows if isinstance(r.get(key), int | float)]
    points = [(step, value) for step, value in points if math.isfinite(value)]
    return [step for step, _ in points], [value for _, value in points]


def _training(metrics_path: str | Path) -> str:
    rows = read_metrics(metrics_path)
    keys = sorted({key for row in rows for key in row}, key=lambda key: (len(key), key))
    semantic: dict[str, Any] = {}
    acoustic: dict[str, Any] = {}
    for key in keys:
        prefix, _, name = key.partition("/")
        held_out = "" if prefix == "train" else "eval "
        if prefix not in ("train", "eval", "valid"):
            continue
        if name == "nll_semantic":
            semantic[f"{held_out}semantic units"] = _curve(rows, key)
        elif name.startswith("nll_acoustic_q"):
            codebook = int(name.removeprefix("nll_acoustic_q")) + 1
            acoustic[f"{held_out}codebook {codebook}"] = _curve(rows, key)
    panels = [p for p in (("Semantic stream", semantic), ("Acoustic stream", acoustic)) if p[1]]
    if not panels:
        return ""
    light = data_uri(plots.curves_png(panels, dark=False), "image/png")
    dark = data_uri(plots.curves_png(panels, dark=True), "image/png")
    return (
        "<h2>Training</h2><p>Negative log-likelihood in nats per token, by stream and codebook."
        '</p><picture><source media="(prefers-color-scheme: dark)" '
        f'srcset="{dark}"><img class="plot" src="{light}" alt="loss curves"></picture>'
    )


# Everything else that the results hold.


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
    """Writes the report page.

    Args:
        results: as `suite.evaluate` returns them; `timings_s`, `train`, `config` and `settings`
            are shown as tables where present.
        samples_dir: the samples, for the players; None leaves them out.
        metrics_path: metrics.jsonl of the training run, for the curves; None leaves them out.
        output: the HTML file.
        title: heading of the page.
        items: scores of single items from `suite.evaluate`, to show what was recognised.
        summary: a paragraph on what was run, below the heading.

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
        f"<h2>Results</h2><p>Point estimates with {LEVEL:.0%} intervals (bootstrap over items) "
        "and the number n of items. The recording and the recording through the codec are "
        "ceilings; another speaker and shuffled transcripts are floors.</p>",
        _main_table(results),
        _difference_table(results),
        _voice_table(results),
        _answer_table(results),
        players.listening_section(samples_dir, by_id) if samples_dir is not None else "",
        _training(metrics_path) if metrics_path is not None else "",
        _facts("Training run", results.get("train", {})),
        _facts("Time", results.get("timings_s", {}), " s"),
        _recipe_list(results),
        _facts("Evaluation settings", results.get("settings", {})),
        _facts("Configuration", results.get("config", {})),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )
    if len(page.encode()) > MAX_BYTES:
        raise UserError(f"{output}: the page would exceed {MAX_BYTES / 1e6:g} MB")
    write_text(output, page)
