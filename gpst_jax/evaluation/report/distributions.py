"""How scores are spread over items and speakers, on the report page."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gpst_jax.evaluation.report import plots, tables
from gpst_jax.evaluation.report.players import escape, picture

SPEAKERS = 30  # in a chart: those with the most errors, or the least similar ones
_CONDITIONS = 8  # in a chart, as many as there are colours

Items = Mapping[str, Sequence[Mapping[str, Any]]]


def distributions_section(items: Items, recipe: str = "") -> str:
    """Charts of the word errors of items, of their lengths, and of speakers; empty without any.

    Args:
        items: condition -> scores of single items, as the suite returns them.
        recipe: id of the recipe that their word errors are by.
    """
    names = tables.in_order([n for n, group in items.items() if any(map(_rate_of, group))])
    shown = [name for name in names if _errors(items[name])][:_CONDITIONS]
    out = ""
    if shown:
        rates = {tables.condition_name(n): _rates(items[n]) for n in shown}
        lengths = {
            tables.condition_name(n): (
                [float(e["words"]) for e in _errors(items[n])],
                _rates(items[n]),
            )
            for n in shown
        }
        panels = [
            ("Word errors of items", plots.histogram(rates, "word errors of an item, %")),
            (
                "Length and errors",
                plots.scatter(lengths, "words of the reference", "errors / words"),
            ),
        ]
        out += picture(panels, "histogram of word errors, and word errors against length")
    out += _by_speaker(items, shown)
    if not out:
        return ""
    by = f" by <code>{escape(recipe)}</code>" if recipe else ""
    return (
        f"<h2>Items and speakers</h2><p>Word errors{by} of single items: their distribution, and "
        "against the length of the reference, with the mean at each length. Below, by speaker.</p>"
        + out
    )


def _rate_of(item: Mapping[str, Any]) -> bool:
    return item.get("errors") is not None or item.get("similarity") is not None


def _errors(group: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Error counts of the items that have a reference with words."""
    return [e for item in group if (e := item.get("errors")) and e["words"]]


def _count(errors: Mapping[str, Any]) -> int:
    return errors["substitutions"] + errors["deletions"] + errors["insertions"]


def _rates(group: Iterable[Mapping[str, Any]]) -> list[float]:
    return [_count(e) / e["words"] for e in _errors(group)]


def _by_speaker(items: Items, shown: Sequence[str]) -> str:
    """Dots for each speaker: word errors, and similarity, of every condition."""
    errors: dict[str, dict[str, float]] = {}
    cosines: dict[str, dict[str, float]] = {}
    for name in tables.in_order(list(items))[:_CONDITIONS]:
        label = tables.condition_name(name)
        for speaker, group in _grouped(items[name]).items():
            found = _errors(group)
            if found and name in shown:
                words = sum(e["words"] for e in found)
                errors.setdefault(label, {})[speaker] = 100 * sum(map(_count, found)) / words
            values = [i["similarity"] for i in group if i.get("similarity") is not None]
            if values:
                cosines.setdefault(label, {})[speaker] = sum(values) / len(values)
    panels = []
    most = 0
    for title, series, unit, reverse in (
        ("Word errors by speaker", errors, "word errors, %", True),
        ("Similarity by speaker", cosines, "cosine", False),
    ):
        rows = _worst(series, reverse)
        if len(rows) > 1:
            most = max(most, len(rows))
            panels.append((_title(title, series), plots.dots(series, rows, unit)))
    if not panels:
        return ""
    return picture(panels, "scores by speaker", height=1.6 + 0.19 * most)


def _grouped(group: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for item in group:
        if item.get("speaker"):
            found.setdefault(str(item["speaker"]), []).append(item)
    return found


def _worst(series: Mapping[str, Mapping[str, float]], reverse: bool) -> list[str]:
    """Speakers by their mean over conditions, the worst first, at most `SPEAKERS`."""
    every: dict[str, list[float]] = {}
    for values in series.values():
        for speaker, value in values.items():
            every.setdefault(speaker, []).append(value)
    ordered = sorted(every, key=lambda s: (sum(every[s]) / len(every[s]), s), reverse=reverse)
    return ordered[:SPEAKERS]


def _title(title: str, series: Mapping[str, Mapping[str, float]]) -> str:
    count = len({speaker for values in series.values() for speaker in values})
    return f"{title}, {SPEAKERS} worst of {count}" if count > SPEAKERS else title
