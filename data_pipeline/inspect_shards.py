"""Inspects a dataset of token shards: statistics and faults.

    python -m data_pipeline.inspect_shards DIR [--html_out=FILE.html] [--json_out=FILE.json]

Reads every record and prints a summary; `--html_out` writes a page with plots and audio. Exit code:
0 when the dataset is intact, 3 when it has faults (each is listed), 2 when there is no dataset to
read.
"""

import dataclasses
from typing import Any

import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from data_pipeline.datasets.token_dataset import UNKNOWN_SPEAKER, DatasetSpec
from data_pipeline.inspection.page import check_installed, write_page
from data_pipeline.inspection.statistics import FAULTS, DatasetStatistics, SplitStatistics, collect
from data_pipeline.runtime import cli, exit_codes
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_json
from data_pipeline.runtime.progress import progress

_SHOWN_SPEAKERS = 12


def inspect_shards(dataset_dir: str) -> DatasetStatistics:
    """Reads all records of a dataset, with progress; see `statistics.collect`."""
    spec = DatasetSpec.load(dataset_dir)
    total = sum(split.num_records for split in spec.splits.values())
    with progress("read records", total) as advance:
        return collect(dataset_dir, advance)


def to_json(statistics: DatasetStatistics) -> dict[str, Any]:
    """All statistics, for `--json_out`."""
    spec = statistics.spec
    return {
        "fingerprint": spec.fingerprint,
        "whole": statistics.whole,
        "semantic": spec.semantic.id,
        "codec": spec.codec.id,
        "inputs": spec.statistics,
        "splits": {name: _split_json(split) for name, split in statistics.splits.items()},
        "units": statistics.units.summary(),
        "codebooks": [usage.summary() for usage in statistics.codebooks],
        "faults": {kind: dataclasses.asdict(f) for kind, f in statistics.faults.items()},
        "duplicates": dataclasses.asdict(statistics.duplicates),
    }


def _split_json(split: SplitStatistics) -> dict[str, Any]:
    speakers = split.hours_by("speaker")
    return {
        "records": len(split.number),
        "hours": round(split.hours, 6),
        "seconds": quantiles(split.seconds),
        "silence_share": quantiles(split.silence),
        "repeated_units_share": quantiles(split.repeats),
        "frames_apart": quantiles(split.apart),
        "speakers": len([name for name in speakers if name != UNKNOWN_SPEAKER]),
        "effective_speakers": round(effective_number(list(speakers.values())), 2),
        "speaker_hours": {k: round(v, 5) for k, v in list(speakers.items())[:_SHOWN_SPEAKERS]},
        "language_hours": {k: round(v, 5) for k, v in split.hours_by("language").items()},
        "length_histogram": histogram(split.seconds, float(split.seconds.max(initial=0.0))),
        "silence_histogram": histogram(split.silence, 1.0),
    }


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Minimum, median, mean and maximum of values (R,)."""
    if not len(values):
        return {}
    return {
        "min": round(float(values.min()), 4),
        "median": round(float(np.median(values)), 4),
        "mean": round(float(values.mean(dtype=np.float64)), 4),
        "max": round(float(values.max()), 4),
    }


def histogram(values: np.ndarray, top: float, bins: int = 40) -> dict[str, list[float]]:
    """Counts of values (R,) in `bins` equal bins from 0 to `top`, and the bins' edges."""
    counts, edges = np.histogram(values, bins, (0.0, top or 1.0))
    return {"counts": counts.tolist(), "edges": np.round(edges, 4).tolist()}


def effective_number(shares: list[float]) -> float:
    """Exponential of the entropy: as many equal shares have the same entropy."""
    values = np.array(shares, np.float64)
    values = values[values > 0] / max(values.sum(), 1e-12)
    return float(np.exp(-(values * np.log(values)).sum())) if len(values) else 0.0


def print_summary(statistics: DatasetStatistics, console: Console) -> None:
    """Prints the summary to a terminal."""
    spec = statistics.spec
    console.print(
        f"[bold]{spec.semantic.id}[/] at {spec.semantic.frame_rate:g} Hz, "
        f"[bold]{spec.codec.id}[/] at {spec.codec.frame_rate:g} Hz, "
        f"fingerprint {spec.fingerprint[:12]}"
    )
    table = Table(box=None, header_style="dim", pad_edge=False)
    columns = ("split", "records", "hours", "mean s", "max s", "silence", "repeats", "speakers")
    for column in columns:
        table.add_column(column, justify="left" if column == "split" else "right")
    for name, split in statistics.splits.items():
        figures = _split_json(split)
        seconds = figures["seconds"] or {"mean": 0.0, "max": 0.0}
        table.add_row(
            name,
            f"{len(split.number):,}",
            f"{split.hours:.3f}",
            f"{seconds['mean']:.2f}",
            f"{seconds['max']:.2f}",
            _percent(figures["silence_share"]),
            _percent(figures["repeated_units_share"]),
            f"{figures['speakers']:,} ({figures['effective_speakers']:,.1f} effective)",
        )
    console.print(table)
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("tokens", "size", "dead", "entropy, bits", "perplexity", "most frequent"):
        table.add_column(column, justify="left" if column == "tokens" else "right")
    rows = {"units": statistics.units}
    rows |= {f"codebook {number}": usage for number, usage in enumerate(statistics.codebooks, 1)}
    for name, usage in rows.items():
        figures = usage.summary()
        table.add_row(
            name,
            f"{figures['size']:,}",
            f"{figures['dead']:,}",
            f"{figures['entropy_bits']:.2f} of {np.log2(figures['size']):.2f}",
            f"{figures['perplexity']:,.1f}",
            f"{figures['most_frequent_share']:.1%}",
        )
    console.print(table)
    languages = {code for split in statistics.splits.values() for code in split.languages}
    console.print(f"languages: {', '.join(sorted(languages))}", highlight=False)
    counts = spec.statistics
    console.print(
        f"inputs: {counts.get('inputs', 0):,}, of which {counts.get('failed', 0):,} failed (see "
        "failures.jsonl)",
        highlight=False,
    )
    if statistics.duplicates.count:
        console.print(
            f"{statistics.duplicates.count:,} records have exactly the tokens of another:"
        )
        _print_names(statistics.duplicates.named, console)
    for kind, faults in statistics.faults.items():
        if faults.count:
            console.print(f"[bold red]{faults.count:,} {FAULTS[kind]}:[/]", highlight=False)
            _print_names(faults.named, console)
    console.print("whole" if statistics.whole else "[bold red]NOT whole[/]")


def _print_names(names: list[str], console: Console) -> None:
    for name in names:
        console.print(f"  {name}", markup=False, highlight=False, soft_wrap=True)


def _percent(figures: dict[str, float]) -> str:
    return f"{figures['mean']:.0%}" if figures else "-"


def _define_flags() -> None:
    """Defined when run as a program only."""
    flags.DEFINE_string("html_out", None, "HTML file to write, with plots and audio.")
    flags.DEFINE_integer("examples", 6, "Records to decode for the page.", lower_bound=0)


def main(argv: list[str]) -> int:
    """Runs the program; see the module."""
    if len(argv) != 2:
        raise UserError("name one dataset: python -m data_pipeline.inspect_shards DIR")
    page = flags.FLAGS.html_out
    if page:
        check_installed()
    statistics = inspect_shards(argv[1])
    print_summary(statistics, Console())
    figures = to_json(statistics)
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, figures)
    if page:
        write_page(page, argv[1], statistics, figures, flags.FLAGS.examples)
    return exit_codes.OK if statistics.whole else exit_codes.PARTIAL


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
