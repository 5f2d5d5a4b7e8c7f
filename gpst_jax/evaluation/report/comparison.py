"""The page on which systems are compared: blind listening first, then numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_text
from gpst_jax.evaluation.comparisons import is_ceiling
from gpst_jax.evaluation.metrics.display import Cell, proportion_cell
from gpst_jax.evaluation.report import blind, tables
from gpst_jax.evaluation.report.markdown import cells, escaped, table
from gpst_jax.evaluation.report.page import MAX_BYTES, document, html_table
from gpst_jax.evaluation.report.players import escape
from gpst_jax.evaluation.systems import System
from gpst_jax.evaluation.votes import Trial, comparison_key
from gpst_jax.samples.manifest import Sample, content_hash, first_of_seeded_order

Place = tuple[str, str]  # condition and id


@dataclass(frozen=True)
class Pair:
    """A system and its base, with their differences and what is listened to.

    Attributes:
        system: the system.
        base: what it is compared with.
        differences: condition -> recipe id -> row.
        trials: items with players.
        votes: summary of the votes, if any were given.
    """

    system: System
    base: System
    differences: Mapping[str, Mapping[str, dict[str, Any]]]
    trials: Sequence[Trial]
    votes: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """`SYSTEM - BASE`."""
        return f"{self.system.name} - {self.base.name}"

    @property
    def key(self) -> str:
        """See `votes.comparison_key`."""
        return comparison_key([self.base.name, self.system.name], self.trials)


def choose_trials(system: System, base: System, count: int, seed: int) -> list[Trial]:
    """At most `count` items that both systems render, spread over the conditions.

    Left out are ceilings, and items whose files are byte for byte the same. Of several runs of a
    system the first is listened to.
    """
    first, second = base.runs[0].samples, system.runs[0].samples
    names = [name for name in tables.in_order(list(first)) if name in second]
    queues: list[list[Trial]] = []
    for name in names:
        others = {sample.id: sample for sample in second[name]}
        shared = [s for s in first[name] if s.id in others and not is_ceiling(name)]
        ordered = first_of_seeded_order(shared, len(shared), seed)
        different = (s for s in ordered if not _same(s.audio, others[s.id].audio))
        chosen = [s for s, _ in zip(different, range(count), strict=False)]
        queues.append([Trial(name, s.id, s.speaker) for s in chosen])
    trials: list[Trial] = []
    while len(trials) < count and any(queues):
        trials += [queue.pop(0) for queue in queues if queue]
    return trials[:count]


def _same(a: Path, b: Path) -> bool:
    digest = content_hash(a)
    return digest is not None and digest == content_hash(b)


def render_comparison(pairs: Sequence[Pair], output: str | Path, title: str) -> None:
    """Writes the page, and its numbers as Markdown beside it (`.md`).

    Raises:
        UserError: the page cannot be written or would exceed 15 MB.
    """
    systems = list(dict.fromkeys(s.name for pair in pairs for s in (pair.base, pair.system)))
    body = f"<header><h1>{escape(title)}</h1><p>{escape(' and '.join(systems))}</p></header>"
    for pair in pairs:
        if pair.trials:
            body += _listening(pair)
    numbers = "".join(_votes(pair) + _differences(pair) for pair in pairs)
    # Folded, so that nobody reads the numbers before listening.
    opened = "" if any(pair.trials for pair in pairs) else " open"
    body += f"<details{opened}><summary>Numbers</summary>{numbers}</details>"
    page = document(title, body, script=blind.SCRIPT, style=blind.STYLE)
    if len(page.encode()) > MAX_BYTES:
        raise UserError(
            f"{output}: the page would exceed {MAX_BYTES / 1e6:g} MB; give fewer --listen"
        )
    write_text(output, page)
    write_text(Path(output).with_suffix(".md"), _markdown(pairs, title))


def _listening(pair: Pair) -> str:
    sides = (pair.base, pair.system)
    samples = tuple(_samples(side) for side in sides)
    notes = tuple(_notes(side) for side in sides)
    section = blind.blind_section(
        (pair.base.name, pair.system.name),
        pair.trials,
        (samples[0], samples[1]),
        (notes[0], notes[1]),
        pair.key,
    )
    return (
        f"<h2>Which is better? {escape(pair.base.name)} and {escape(pair.system.name)}</h2>"
        "<p>Listen to both sides, then choose. Sides are shuffled, and names are hidden until a "
        "vote is given; the votes stay in this browser until they are saved as a file.</p>"
        + section
    )


def _samples(system: System) -> dict[Place, Sample]:
    groups = system.runs[0].samples
    return {(name, sample.id): sample for name, group in groups.items() for sample in group}


def _notes(system: System) -> dict[Place, str]:
    groups = system.runs[0].items
    return {
        (name, item["id"]): tables.item_note(dict(item))
        for name, group in groups.items()
        for item in group
    }


def _recipes(pair: Pair) -> list[str]:
    return list(dict.fromkeys(id_ for rows in pair.differences.values() for id_ in rows))


def _lines(pair: Pair) -> list[tuple[str, list[Cell]]]:
    """Lines of the table: of each condition the base, the system, and the difference."""
    columns = _recipes(pair)
    lines = []
    for condition in tables.in_order(list(pair.differences)):
        rows = pair.differences[condition]
        name = tables.condition_name(condition)
        for side, who in (("base", pair.base.name), ("system", pair.system.name)):
            values = [
                Cell(tables.number(id_, rows[id_][side])) if side in rows.get(id_, {}) else Cell()
                for id_ in columns
            ]
            lines.append((f"{name}: {who}", values))
        lines.append((f"{name}: difference", cells(columns, rows, signed=True)))
    return lines


def _differences(pair: Pair) -> str:
    if not pair.differences:
        return ""
    caption = (
        f"{escape(pair.system.name)} minus {escape(pair.base.name)}, on the items that both were "
        "scored on, with 95 % intervals: over speakers where five or more are known, else over "
        "items; p by swapping the two in whole speakers or items. Where a system has several runs, "
        "these are a level of their own."
    )
    title = f"<h2>{escape(pair.system.name)} against {escape(pair.base.name)}</h2>"
    return f"{title}<p>{caption}</p>" + html_table(_recipes(pair), _lines(pair))


_VOTES = ("preferred", "wins, losses, ties", "listeners")


def _vote_line(pair: Pair) -> list[tuple[str, list[Cell]]]:
    row = dict(pair.votes or {})
    if row.get("value") is None:
        return [(pair.system.name, [proportion_cell(row)])]
    counts = f"{row['wins']}, {row['losses']}, {row['ties']}"
    p = Cell(counts, (f"sign test p = {row['p']:.3f}",))
    return [(pair.system.name, [proportion_cell(row), p, Cell(str(row["listeners"]))])]


def _votes(pair: Pair) -> str:
    if not pair.votes:
        return ""
    caption = f"How often {escape(pair.system.name)} was preferred; no preference counts half."
    return f"<h2>Votes</h2><p>{caption}</p>" + html_table(_VOTES, _vote_line(pair))


def _markdown(pairs: Sequence[Pair], title: str) -> str:
    parts = [f"# {escaped(title)}"]
    for pair in pairs:
        heading = f"{pair.system.name} against {pair.base.name}"
        parts += table(heading, _recipes(pair), _lines(pair))
        if pair.votes:
            parts += table(f"Votes: {heading}", _VOTES, _vote_line(pair))
    return "\n\n".join(parts) + "\n"
