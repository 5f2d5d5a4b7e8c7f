"""The report page of `inspect_shards`: one HTML file with embedded plots, audio and tables.

It is self-contained, without scripts, and follows the reader's light or dark setting.
"""

import base64
import html
import importlib.util
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from data_pipeline.datasets.token_records import Record, RecordReader
from data_pipeline.inspection.statistics import FAULTS, DatasetStatistics, Usage
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import write_text
from data_pipeline.tokenizers import load_codec

_MAX_SECONDS = 12.0  # of one player
_MAX_BARS = 40
# Legible on light and dark pages; from the palette of Okabe and Ito.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c", "#b58900")

_STYLE = """
:root{--ink:#1d1d1b;--soft:#6b6b66;--line:#dcdcd6;--page:#fdfdfb;--bad:#b3261e}
@media (prefers-color-scheme:dark){
 :root{--ink:#e6e6e1;--soft:#9c9c95;--line:#3a3a37;--page:#171716;--bad:#ff8a80}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
 font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
main{max-width:68rem;margin:0 auto;padding:2.5rem 1.25rem 5rem}
h1{font-size:1.9rem;line-height:1.2;font-weight:650;margin:0 0 .5rem;overflow-wrap:anywhere}
h2{font-size:1.25rem;font-weight:650;margin:2.75rem 0 .5rem}
p{max-width:46rem;margin:.25rem 0 1rem;color:var(--soft)}
p.verdict{color:var(--ink);font-weight:600}
p.verdict.bad,li.bad{color:var(--bad)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92rem}
thead th{font-weight:500;color:var(--soft);font-size:.8rem;text-align:right;
 padding:.35rem 0 .35rem 1.6rem;border-bottom:1px solid var(--ink)}
thead th:first-child,tbody th{text-align:left;padding-left:0}
tbody th{font-weight:400;padding:.35rem 1rem .35rem 0}
tbody td{text-align:right;padding:.35rem 0 .35rem 1.6rem}
tbody tr{border-bottom:1px solid var(--line)}
table.facts th{color:var(--soft);vertical-align:top}
table.facts td{text-align:left;overflow-wrap:anywhere}
img{display:block;width:100%;height:auto}
picture+.scroll{margin-top:1.25rem}
summary{cursor:pointer;font-size:.9rem}
.players{display:grid;grid-template-columns:repeat(auto-fill,minmax(19rem,1fr));gap:1.25rem}
figure{margin:0}
figcaption{font-size:.85rem;color:var(--soft);margin-bottom:.35rem;overflow-wrap:anywhere}
figcaption b{color:var(--ink);font-weight:600}
audio{width:100%;height:2.4rem}
ul{font-size:.9rem;padding-left:1.2rem;overflow-wrap:anywhere}
"""


def check_installed() -> None:
    """Raises UserError where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("--html_out needs matplotlib: pip install gpst_jax[demo]")


def write_page(
    path: str,
    dataset_dir: str,
    statistics: DatasetStatistics,
    figures: dict[str, Any],
    num_examples: int,
) -> None:
    """Writes the page.

    Args:
        path: of the HTML file.
        dataset_dir: the dataset.
        statistics: of all its records.
        figures: `inspect_shards.to_json` of them.
        num_examples: how many records to decode for listening.

    Raises:
        UserError: the file cannot be written.
    """
    name = Path(dataset_dir).absolute().name
    body = "".join(
        [
            f"<header><h1>{_escape(name)}</h1>{_verdict(statistics)}{_facts(statistics)}</header>",
            "<h2>Splits</h2>" + _split_table(figures),
            _faults(statistics),
            "<h2>Lengths, silence and alignment</h2><p>Silence: fraction of a record's units that "
            "also occur in encoded digital silence. Alignment: difference in duration of the two "
            "streams, in frames; above one is a fault.</p>" + _picture(_draw_lengths, statistics),
            "<h2>Codebook usage</h2><p>Relative frequencies in descending order. A flat line is "
            "even use; entries that never occur are dead.</p>"
            + _picture(_draw_usage, statistics)
            + _usage_table(statistics),
            "<h2>Speakers and languages</h2>" + _picture(_draw_balance, statistics),
            _duplicates(statistics),
            _examples(dataset_dir, statistics, num_examples),
        ]
    )
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{_escape(name)}: token shards</title><style>{_STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )
    write_text(path, page)


# Text and tables.


def _verdict(statistics: DatasetStatistics) -> str:
    if statistics.whole:
        return '<p class="verdict">Every record was read; no faults were found.</p>'
    return '<p class="verdict bad">Faults were found, see below.</p>'


def _facts(statistics: DatasetStatistics) -> str:
    spec = statistics.spec
    hours = sum(split.hours for split in statistics.splits.values())
    records = sum(len(split.number) for split in statistics.splits.values())
    counts = ", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in _inputs(spec).items())
    rows = {
        "records": f"{records:,} with {hours:,.3f} hours",
        "inputs": counts,
        "semantic": f"{spec.semantic.id}, {spec.semantic.vocab_size:,} units at "
        f"{spec.semantic.frame_rate:g} Hz",
        "codec": f"{spec.codec.id}, {spec.codec.num_codebooks} codebooks of "
        f"{spec.codec.codebook_size:,} at {spec.codec.frame_rate:g} Hz, {spec.sample_rate:,} Hz "
        "audio",
        "recordings": f"at least {spec.min_seconds:g} s long, in records of at most "
        f"{spec.chunk_seconds:g} s",
        "fingerprint": spec.fingerprint,
    }
    body = "".join(f"<tr><th>{k}</th><td>{_escape(v)}</td></tr>" for k, v in rows.items())
    return f'<div class="scroll"><table class="facts"><tbody>{body}</tbody></table></div>'


def _inputs(spec: Any) -> dict[str, int]:
    return {key: value for key, value in spec.statistics.items() if isinstance(value, int)}


def _split_table(figures: dict[str, Any]) -> str:
    head = ("records", "hours", "seconds, mean", "longest", "silence", "repeated units", "speakers")
    rows = []
    for name, split in figures["splits"].items():
        seconds = split["seconds"] or {"mean": 0.0, "max": 0.0}
        rows.append(
            (
                name,
                f"{split['records']:,}",
                f"{split['hours']:,.3f}",
                f"{seconds['mean']:.2f}",
                f"{seconds['max']:.2f}",
                f"{split['silence_share'].get('mean', 0):.1%}",
                f"{split['repeated_units_share'].get('mean', 0):.1%}",
                f"{split['speakers']:,}",
            )
        )
    return _table(("", *head), rows)


def _usage_table(statistics: DatasetStatistics) -> str:
    rows = []
    for name, usage in _usages(statistics):
        figures = usage.summary()
        rows.append(
            (
                name,
                f"{figures['size']:,}",
                f"{figures['dead']:,}",
                f"{figures['entropy_bits']:.2f} of {np.log2(figures['size']):.2f}",
                f"{figures['perplexity']:,.1f}",
                f"{figures['most_frequent_share']:.2%}",
            )
        )
    return _table(("", "size", "dead", "entropy, bits", "perplexity", "most frequent"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{_escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr><th>{_escape(row[0])}</th>"
        + "".join(f"<td>{_escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def _faults(statistics: DatasetStatistics) -> str:
    out = ""
    for kind, faults in statistics.faults.items():
        if faults.count:
            out += f"<p>{faults.count:,} {FAULTS[kind]}</p>" + _list(faults.named, "bad")
    return f"<h2>Faults</h2>{out}" if out else ""


def _duplicates(statistics: DatasetStatistics) -> str:
    count = statistics.duplicates.count
    if not count:
        return ""
    return (
        f"<h2>Duplicates</h2><p>{count:,} records have exactly the tokens of another. "
        "Within a split they count twice; across splits they leak.</p>"
        f"<details><summary>The first {len(statistics.duplicates.named)}</summary>"
        f"{_list(statistics.duplicates.named)}</details>"
    )


def _list(names: Sequence[str], css: str = "") -> str:
    return "<ul>" + "".join(f'<li class="{css}">{_escape(name)}</li>' for name in names) + "</ul>"


def _escape(text: Any) -> str:
    return html.escape(str(text))


# Plots.


def _picture(draw: Callable[[DatasetStatistics, Any], Any], statistics: DatasetStatistics) -> str:
    """A plot, rendered for light and for dark pages."""
    light, dark = (_render(draw, statistics, ink) for ink in ("#3a3a38", "#c9c9c4"))
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="plot"></picture>'
    )


def _render(
    draw: Callable[[DatasetStatistics, Any], Any], statistics: DatasetStatistics, ink: str
) -> str:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    style = {
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), ink
        ),
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 10,
        "legend.frameon": False,
        "legend.fontsize": 8,
    }
    with pyplot.rc_context(style):
        figure = draw(statistics, pyplot)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=140, transparent=True)
        pyplot.close(figure)
    return _data_uri(buffer.getvalue(), "image/png")


def _draw_lengths(statistics: DatasetStatistics, pyplot: Any) -> Any:
    """Histograms of every split, normalised by its records."""
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3), layout="constrained")
    panels = (("seconds", "length, s"), ("silence", "silent fraction"), ("apart", "frames apart"))
    for axis, (name, label) in zip(axes, panels, strict=True):
        values = {split: getattr(s, name) for split, s in statistics.splits.items()}
        top = max((float(v.max()) for v in values.values() if len(v)), default=1.0)
        if name == "apart":
            top = max(1.0, top)
        for colour, (split, found) in zip(_COLOURS, values.items(), strict=False):
            counts, edges = np.histogram(found, 40, (0.0, max(top, 0.02)))
            share = counts / max(1, len(found))
            axis.stairs(share, edges, color=colour, label=split, linewidth=1.4)
        axis.set_xlabel(label)
        axis.set_ylabel("fraction of records")
    axes[0].legend()
    return figure


def _usages(statistics: DatasetStatistics) -> list[tuple[str, Usage]]:
    codebooks = enumerate(statistics.codebooks, 1)
    return [("units", statistics.units), *((f"codebook {q}", usage) for q, usage in codebooks)]


def _draw_usage(statistics: DatasetStatistics, pyplot: Any) -> Any:
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3), layout="constrained")
    usages = _usages(statistics)
    cells: tuple[tuple[str, list[tuple[str, Usage]]], ...] = (
        ("Units", usages[:1]),
        ("Codes, by codebook", usages[1:]),
    )
    for axis, (title, shown) in zip(axes, cells, strict=False):
        colours = pyplot.get_cmap("viridis")(np.linspace(0.15, 0.85, len(shown)))
        for colour, (name, usage) in zip(colours, shown, strict=True):
            share = np.sort(usage.counts)[::-1] / max(1, usage.counts.sum())
            share = np.where(share > 0, share, np.nan)
            axis.plot(np.arange(1, len(share) + 1), share, color=colour, label=name, linewidth=1.4)
        axis.set_yscale("log")
        axis.set_title(title)
        axis.set_xlabel("rank")
        axis.set_ylabel("frequency")
    if len(usages) <= 9:
        axes[1].legend(ncols=2)
    names = ["units", *(str(q) for q in range(1, len(usages)))]
    full = [np.log2(len(usage.counts)) for _, usage in usages]
    bits = [usage.entropy_bits for _, usage in usages]
    axes[2].bar(names, full, color="#8c8c8c", alpha=0.25, label="possible")
    axes[2].bar(names, bits, color=_COLOURS[0], label="used")
    axes[2].set_title("Entropy by codebook, bits")
    axes[2].set_ylim(0, 1.25 * max(full))
    axes[2].legend(ncols=2, loc="upper right")
    return figure


def _draw_balance(statistics: DatasetStatistics, pyplot: Any) -> Any:
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 3), layout="constrained", width_ratios=(3, 1))
    for axis, what in zip(axes, ("speaker", "language"), strict=True):
        total: dict[str, float] = {}
        for split in statistics.splits.values():
            for name, hours in split.hours_by(what).items():
                total[name] = total.get(name, 0.0) + hours
        shown = sorted(total.items(), key=lambda item: (-item[1], item[0]))
        values = [hours for _, hours in shown]
        if len(values) <= _MAX_BARS:
            axis.bar([name for name, _ in shown], values, color=_COLOURS[0], width=0.7)
            if max((len(name) for name, _ in shown), default=0) * len(values) > 60:
                axis.tick_params(axis="x", rotation=90)
        else:  # too many names to label
            axis.fill_between(np.arange(len(values)), values, step="mid", color=_COLOURS[0])
            axis.set_xlabel(f"{len(values):,} {what}s, by their hours")
        axis.set_title(f"Hours by {what}")
        axis.set_xlim(-0.75, max(len(values) - 0.25, 1.75))
    return figure


# Audio.


def _examples(dataset_dir: str, statistics: DatasetStatistics, count: int) -> str:
    """Records spread over splits and speakers, decoded by the dataset's own codec."""
    if not count or not any(len(split.number) for split in statistics.splits.values()):
        return ""
    head = "<h2>Listen</h2><p>Records decoded by the dataset's codec.</p>"
    try:
        codec = load_codec(Path(dataset_dir) / statistics.spec.codec.path)
    except UserError as error:
        return f"{head}<p>No players: {_escape(error)}</p>"
    players = ""
    for split, record in _choose(dataset_dir, statistics, count):
        frames = round(_MAX_SECONDS * codec.frame_rate)
        wav = codec.decode(record.codes[:, :frames])
        buffer = io.BytesIO()
        if "MP3" in soundfile.available_formats() and codec.sample_rate <= 48000:
            soundfile.write(buffer, wav, codec.sample_rate, format="MP3")
            mime = "audio/mpeg"
        else:
            soundfile.write(buffer, wav, codec.sample_rate, format="WAV", subtype="PCM_16")
            mime = "audio/wav"
        text = f"<br>{_escape(record.text)}" if record.text else ""
        players += (
            f"<figure><figcaption><b>{_escape(record.id)}</b><br>{_escape(split)}, "
            f"{_escape(record.speaker)}, {_escape(record.language)}, "
            f"{record.start:.2f} to {record.end:.2f} s{text}</figcaption>"
            f'<audio controls preload="metadata" src="{_data_uri(buffer.getvalue(), mime)}">'
            "</audio></figure>"
        )
    return f'{head}<div class="players">{players}</div>'


def _choose(
    dataset_dir: str, statistics: DatasetStatistics, count: int
) -> list[tuple[str, Record]]:
    """Records from each split in turn, first one per speaker."""
    queues = []
    for name, split in statistics.splits.items():
        _, first = np.unique(split.speaker, return_index=True)
        rest = np.setdiff1d(np.arange(len(split.number)), first)
        # In splits of few speakers, more records, spread over the split.
        spread = rest[np.linspace(0, len(rest) - 1, count).astype(int)] if len(rest) else rest
        order = np.concatenate([first, np.unique(spread)])
        queues.append([(name, int(split.number[row])) for row in order])
    chosen: list[tuple[str, int]] = []
    for turn in range(max(len(queue) for queue in queues)):
        chosen.extend(queue[turn] for queue in queues if turn < len(queue))
    readers = {name: RecordReader(dataset_dir, name) for name in statistics.splits}
    return [(name, readers[name][number]) for name, number in sorted(chosen[:count])]


def _data_uri(data: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"
