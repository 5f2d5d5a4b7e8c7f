"""The page of a study, from its file and its recorded JSON alone: equal records, equal bytes."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.runtime.files import write_text
from gpst_jax.config import RunConfig
from gpst_jax.evaluation.metrics.statistics import Estimate
from gpst_jax.evaluation.report.plots import chart_png, intervals
from gpst_jax.studies import cost, estimates, sentences
from gpst_jax.studies.definition import Cell, Study
from gpst_jax.studies.figures import Figure
from gpst_jax.studies.records import Load

Records = Mapping[tuple[str, int], Mapping[str, Any]]
_UPPER = {"tokens": "DATASET", "audio_dir": "RECORDINGS", "run": "RUN", "lm_run": "LM_RUN"}
_PLOTTED = 4  # figures side by side
_COLUMNS = 12  # of a table that is not turned


@dataclasses.dataclass(frozen=True)
class Table:
    """The scores of a study's records: cell -> figure key -> seed -> score."""

    study: Study
    scores: Mapping[str, Mapping[str, estimates.Scores]]
    records: Records

    @classmethod
    def of(cls, study: Study, records: Records) -> "Table":
        """The scores of all records, in the order of the study."""
        scores: dict[str, dict[str, dict[int, Any]]] = {}
        for cell in study.cells:
            for figure in study.figures:
                of_figure = {
                    seed: record["scores"][figure.key]
                    for (name, seed), record in sorted(records.items())
                    if name == cell.name and figure.key in record["scores"]
                }
                scores.setdefault(cell.name, {})[figure.key] = of_figure
        return cls(study, scores, records)

    def estimate(self, cell: str, figure: Figure) -> Estimate | None:
        """A figure of a cell over its seeds."""
        return estimates.of_cell(self.scores[cell][figure.key])

    def training_flops(self, cell: str) -> float:
        """Mean training FLOPs of a cell's seeds; 0 where they are not known."""
        own = [record for (name, _), record in self.records.items() if name == cell]
        return sum(record["cost"]["training_flops"] or 0.0 for record in own) / max(1, len(own))

    def difference(self, cell: str, base: str, figure: Figure) -> tuple[Estimate | None, int]:
        """A figure of a cell minus that of its base, and the number of seeds of both."""
        sides = (self.scores[name][figure.key] for name in (cell, base))
        return estimates.difference(*sides)


def command(file: str, study: Study) -> str:
    """The command that runs a study, with the inputs by kind instead of their paths."""
    inputs = [f"--{name}={_UPPER[name]}" for name in study.inputs()]
    return " ".join(["python -m experiments.study", f"--study={file}", *inputs])


def write(study: Study, file: str, records: Records, root: Path, load: Load) -> Path:
    """Writes the page and its plot.

    Args:
        study: as its file defines it.
        file: that file, as the page's command names it.
        records: of its finished cells.
        root: the folder of pages.
        load: gives the configuration of a file.

    Returns:
        The page.
    """
    table = Table.of(study, records)
    plot = _plot(table) if records else None
    picture = root / f"{study.name}.png"
    if plot is None:
        picture.unlink(missing_ok=True)
    else:
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(plot)
    lines = [f"# {study.question}", "", f"    {command(file, study)}", ""]
    if records:
        lines += _results(table, records, picture.name if plot else None)
    if missing := _missing(study, records):
        lines += _cost(study, missing, load)
    lines += _cells(study)
    if records:
        lines += ["## Made with", "", *_provenance(records), ""]
    page = root / f"{study.name}.md"
    write_text(page, "\n".join(lines).rstrip() + "\n")
    return page


def _results(table: Table, records: Records, picture: str | None) -> list[str]:
    study = table.study
    done = {name for name, _ in records}
    shown = [cell for cell in study.cells if cell.name in done]
    figures = study.figures
    lines = ["Values with 95 % intervals `[low, high]`, " + _over(study, records) + ".", ""]
    counted = any(table.training_flops(cell.name) for cell in shown)
    trained = ["training FLOPs", "minutes"] if counted else []
    lines += _rows(
        ["cell", "seeds", *trained, *(figure.label for figure in figures)],
        [
            [
                cell.name,
                str(sum(name == cell.name for name, _ in records)),
                *(_spent(cell, table) if trained else ()),
                *(sentences.cell_text(f, table.estimate(cell.name, f)) for f in figures),
            ]
            for cell in shown
        ],
    )
    if picture:
        lines += [f"![{study.question}]({picture})", ""]
    rows, said = _differences(table, done)
    if rows:
        lines += ["Differences, paired by seed and by speaker (or item):", ""]
        lines += _rows(["cell minus base", *(figure.label for figure in figures)], rows)
        lines += ["## What the intervals allow to say", "", *(f"- {one}" for one in said)]
        lines += [
            f"- Differences given: {len(said)}, each with an interval of its own: of twenty true "
            "zeros one is expected to look like a difference.",
            "",
        ]
    for analysis in study.analyses:
        lines += [f"- {line}" for line in analysis.lines(table)] + [""]
    return lines


def _spent(cell: Cell, table: Table) -> tuple[str, str]:
    """Mean training FLOPs and minutes of a cell's seeds."""
    own = [record for (name, _), record in table.records.items() if name == cell.name]
    seconds = [record["cost"]["seconds_of_training"] or 0.0 for record in own]
    return f"{table.training_flops(cell.name):.2e}", f"{sum(seconds) / len(own) / 60:.1f}"


def _differences(table: Table, done: set[str]) -> tuple[list[list[str]], list[str]]:
    """Rows of the table of differences, and a sentence on each."""
    rows, said = [], []
    study = table.study
    for comparison in study.comparisons:
        for cell in comparison.cells:
            if not {cell, comparison.base} <= done:
                continue
            row = [f"{cell} - {comparison.base}"]
            for figure in study.figures:
                estimate, seeds = None, 0
                if figure.better:  # others, such as sizes, are chosen and not found
                    estimate, seeds = table.difference(cell, comparison.base, figure)
                row.append(sentences.cell_text(figure, estimate, signed=True))
                if estimate is not None:
                    said.append(
                        sentences.sentence(
                            cell, comparison.base, figure, estimate, seeds, study.trained
                        )
                    )
            rows.append(row)
    return rows, said


def _over(study: Study, records: Records) -> str:
    """What intervals are over, in words."""
    seeds = {len([s for name, s in records if name == cell.name]) for cell in study.cells} - {0}
    kind = "seeds" if study.trained else "seeds of sampling"
    if max(seeds) == 1:
        return (
            "of a single run each, over its speakers (over items where fewer than five are known)"
        )
    return f"over {kind} and speakers (items where fewer than five speakers are known)"


def _missing(study: Study, records: Records) -> list[tuple[Cell, int]]:
    return [
        (cell, seed)
        for cell in study.cells
        for seed in study.seeds
        if (cell.name, seed) not in records
    ]


def _cost(study: Study, missing: Sequence[tuple[Cell, int]], load: Load) -> list[str]:
    """What the cells that are missing cost."""
    total, known = 0.0, True
    for cell, seed in missing:
        flops = cell_flops(study, cell, seed, load)
        known = known and flops is not None
        total += flops or 0.0
    every = len(study.cells) * len(study.seeds)
    state = "**Not run.** It would cost" if len(missing) == every else "Not run yet, and would cost"
    words = f"{state}: {len(missing)} of {every} cells and seeds"
    configured_cells = any(cell.config for cell in study.cells)
    if configured_cells and known:
        words += f", {total:.2e} training FLOPs in all"
    elif configured_cells:
        steps = sum(
            configured(cell, seed, load).train.steps for cell, seed in missing if cell.config
        )
        words += f", {steps:,} steps of training in all"
    elif study.trained:
        words += ", some of which fine-tune the run"
    else:
        words += ", which train nothing: each generates and scores its items"
    return [f"{words}.", ""]


def cell_flops(study: Study, cell: Cell, seed: int, load: Load) -> float | None:
    """Training FLOPs of a cell; 0 where nothing is trained, None where they are not known."""
    if not cell.config:
        return 0.0
    layout = cell.layout or study.layout
    if layout is None:
        return None
    return cost.training_flops(configured(cell, seed, load), layout)


def configured(cell: Cell, seed: int, load: Load) -> RunConfig:
    """The configuration that a cell trains."""
    return load(cell.config).override([text.format(seed=seed) for text in cell.seeded()])


def _cells(study: Study) -> list[str]:
    """What the cells are, and the notes."""
    lines = ["## Cells", ""]
    own = {cell.name: _described(cell) for cell in study.cells}
    common = [text for text in own[study.cells[0].name] if all(text in one for one in own.values())]
    if common and len(study.cells) > 1:
        lines += [f"All cells: {' '.join(dict.fromkeys(common))}", ""]
    else:
        common = []
    rows = [
        [name, " ".join(text for text in texts if text not in common) or "as it is"]
        for name, texts in own.items()
    ]
    lines += _rows(["cell", "is"], rows)
    seeds = ", ".join(map(str, study.seeds))
    return [*lines, f"- Seeds: {seeds}.", *(f"- {note}" for note in study.notes), ""]


def _described(cell: Cell) -> list[str]:
    """What makes a cell: its configuration, data, overrides, and the flags of what it generates."""
    texts = [cell.config] if cell.config else []
    if cell.config and cell.tokens != "{tokens}":  # made by the study itself
        texts.append(f"data.path={cell.tokens.replace('{shared}', 'SHARED')}")
    texts += cell.overrides
    for call in cell.calls:
        if call.program != "experiments.evaluate":
            texts += [flag for flag in call.flags if "{" not in flag]
    return [f"`{text}`" for text in texts]


def _provenance(records: Records) -> list[str]:
    """Machines, versions, dates and inputs of all records."""

    def each(name: str) -> list[str]:
        return sorted({str(record[name]) for record in records.values()})

    dates = sorted(record["date"] for record in records.values())
    span = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    versions = sorted(
        {f"{name} {value}" for r in records.values() for name, value in r["versions"].items()}
    )
    prints = sorted(
        {f"{name} `{value[:16]}`" for r in records.values() for name, value in r["inputs"].items()}
    )
    seconds = sum(sum(record["seconds"].values()) for record in records.values())
    flops = sum(record["cost"]["training_flops"] or 0.0 for record in records.values())
    lines = [
        f"- Measured {span} on {'; '.join(each('machine'))}.",
        f"- {', '.join(versions)}; code {', '.join(each('commit'))}.",
        f"- Inputs by fingerprint: {', '.join(prints) or 'none'}.",
        f"- {len(records)} cells and seeds took {seconds / 60:.0f} minutes"
        + (f" and {flops:.2e} training FLOPs." if flops else "."),
    ]
    return lines


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, and an empty line; turned where it has more columns than fit a page."""
    if len(header) > _COLUMNS:
        header, *rows = list(zip(header, *rows, strict=True))
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def _plot(table: Table) -> bytes | None:
    """The first figures that have intervals, as points with bars."""
    study = table.study
    panels = []
    placed = all(cell.place is not None for cell in study.cells)
    for figure in study.figures:
        points: list[tuple[str | float, float, float, float]] = []
        for cell in study.cells:
            estimate = table.estimate(cell.name, figure)
            if estimate is None or estimate.low is None or estimate.high is None:
                continue
            place = cell.name if not placed or cell.place is None else cell.place
            value, low, high = (
                figure.scale * one for one in (estimate.value, estimate.low, estimate.high)
            )
            points.append((place, value, low, high))
        if len(points) > 1:
            panels.append((figure.label, intervals(points, study.axis)))
    return chart_png(panels[:_PLOTTED], dark=False, width=3.6, height=2.6) if panels else None
