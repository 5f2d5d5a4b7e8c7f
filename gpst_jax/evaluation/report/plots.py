"""Mel spectrograms and charts for the report page, as PNG bytes."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

MEL_BANDS = 80
_HOP_SECONDS = 0.01
_DYNAMIC_RANGE_DB = 70.0
# Readable on white and near-black; from the Okabe-Ito palette.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c", "#b58900")

# Draws on axes of matplotlib; the second argument is the colour of ink.
Draw = Callable[[Any, str], None]


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot


def log_mel(wav: np.ndarray, sample_rate: int) -> np.ndarray:
    """Log-mel spectrogram of wav (N,): (80, frames) in dB below its peak, from -70 to 0."""
    import librosa

    hop = round(_HOP_SECONDS * sample_rate)
    power = librosa.feature.melspectrogram(
        y=wav.astype(np.float32), sr=sample_rate, n_fft=4 * hop, hop_length=hop, n_mels=MEL_BANDS
    )
    return librosa.power_to_db(power, ref=np.max, top_db=_DYNAMIC_RANGE_DB)


def spectrogram_png(wav: np.ndarray, sample_rate: int, seconds: float) -> bytes:
    """A picture without axes, padded to a width of `seconds`; low frequencies are at the bottom.

    Pictures with equal `seconds` share one time axis.
    """
    mel = log_mel(wav, sample_rate)
    frames = max(1, round(seconds / _HOP_SECONDS))
    shown = mel[:, :frames]
    picture = _pyplot().get_cmap("magma")(shown / _DYNAMIC_RANGE_DB + 1)
    padded = np.zeros((MEL_BANDS, frames, 4))  # transparent
    padded[:, : shown.shape[1]] = picture
    buffer = io.BytesIO()
    _pyplot().imsave(buffer, padded[::-1], format="png")
    return buffer.getvalue()


def chart_png(
    panels: Sequence[tuple[str, Draw]], *, dark: bool, width: float = 4.6, height: float = 3.0
) -> bytes:
    """Charts side by side.

    Args:
        panels: (title, what draws it).
        dark: whether for a dark background.
        width: of a panel, in inches.
        height: likewise.
    """
    pyplot = _pyplot()
    ink = "#c9c9c4" if dark else "#3a3a38"
    style = {
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": ink,
        "xtick.color": ink,
        "ytick.color": ink,
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(
            1,
            len(panels),
            figsize=(width * len(panels), height),
            squeeze=False,
            layout="constrained",
        )
        for axis, (title, draw) in zip(axes[0], panels, strict=True):
            draw(axis, ink)
            axis.set_title(title, loc="left", fontsize=10)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=160, transparent=True)
        pyplot.close(figure)
    return buffer.getvalue()


def curves(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Draw:
    """Loss curves over steps.

    Args:
        lines: label -> (steps, values); a label that starts with "eval" is drawn dashed, in the
            colour of the same label without "eval".
    """

    def draw(axis: Any, ink: str) -> None:
        names = list(dict.fromkeys(label.removeprefix("eval ") for label in lines))
        for label, (steps, values) in lines.items():
            held_out = label.startswith("eval ")
            name = label.removeprefix("eval ")
            axis.plot(
                steps,
                values,
                color=COLOURS[names.index(name) % len(COLOURS)],
                linestyle="--" if held_out else "-",
                linewidth=1.4 if held_out else 1.0,
                alpha=1.0 if held_out else 0.75,
                label=name + (" (held out)" if held_out else ""),
            )
        axis.set_xlabel("step")
        axis.set_ylabel("nats")
        axis.grid(axis="y", color=ink, alpha=0.15)
        axis.legend(frameon=False, fontsize=8, ncols=2 if len(lines) > 6 else 1)

    return draw


def bars(groups: Mapping[str, Mapping[str, float]], unit: str) -> Draw:
    """Bars side by side: label of a group -> name of a bar -> value; `unit` is on the axis."""

    def draw(axis: Any, ink: str) -> None:
        names = list(dict.fromkeys(name for group in groups.values() for name in group))
        width = 0.8 / max(1, len(groups))
        for number, (label, group) in enumerate(groups.items()):
            places = [names.index(name) + number * width for name in group]
            axis.bar(
                places,
                list(group.values()),
                width,
                label=label,
                color=COLOURS[number % 8],
                alpha=0.9,
            )
        middle = width * (len(groups) - 1) / 2
        axis.set_xticks([place + middle for place in range(len(names))], names)
        axis.set_ylabel(unit)
        axis.grid(axis="y", color=ink, alpha=0.15)
        if len(groups) > 1:
            axis.legend(frameon=False, fontsize=8)

    return draw


def histogram(series: Mapping[str, Sequence[float]], label: str) -> Draw:
    """Shares of items by error rate, in bins of a tenth; all above one together.

    Args:
        series: name -> rates.
        label: of the horizontal axis.
    """

    def draw(axis: Any, ink: str) -> None:
        # A bin of its own for no errors at all, which most items have.
        edges = [-0.1, 1e-9, *(np.arange(1, 11) / 10 + 1e-9), np.inf]
        places = np.arange(len(edges) - 1)
        for number, (name, rates) in enumerate(series.items()):
            counts, _ = np.histogram(rates, edges)
            shares = counts / max(1, len(rates))
            axis.plot(
                places,
                shares,
                "o-",
                markersize=3,
                linewidth=1.2,
                label=name,
                color=COLOURS[number % 8],
            )
        names = ["0", *(f"≤{tenth}0" for tenth in range(1, 10)), "≤100", ">100"]
        axis.set_xticks(places, names, rotation=45)
        axis.set_xlabel(label)
        axis.set_ylabel("share of items")
        axis.set_ylim(0, None)
        axis.grid(axis="y", color=ink, alpha=0.15)
        axis.legend(frameon=False, fontsize=8)

    return draw


def scatter(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str) -> Draw:
    """Items as points, and their mean at each place: name -> (places, values)."""

    def draw(axis: Any, ink: str) -> None:
        for number, (name, (places, values)) in enumerate(series.items()):
            colour = COLOURS[number % 8]
            axis.scatter(places, values, s=6, alpha=0.25, color=colour, linewidths=0)
            steps = sorted(set(places))
            points = np.asarray(places), np.asarray(values)
            means = [float(points[1][points[0] == step].mean()) for step in steps]
            axis.plot(steps, means, linewidth=1.2, color=colour, label=name)
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        axis.grid(axis="y", color=ink, alpha=0.15)
        axis.legend(frameon=False, fontsize=8)

    return draw


def dots(series: Mapping[str, Mapping[str, float]], rows: Sequence[str], label: str) -> Draw:
    """One line of dots for each row, the first one on top: name -> row -> value."""

    def draw(axis: Any, ink: str) -> None:
        for number, (name, values) in enumerate(series.items()):
            shown = [(values[row], place) for place, row in enumerate(rows) if row in values]
            if shown:
                axis.scatter(*zip(*shown, strict=True), s=18, color=COLOURS[number % 8], label=name)
        axis.set_yticks(range(len(rows)), rows)
        axis.invert_yaxis()
        axis.set_xlabel(label)
        axis.grid(color=ink, alpha=0.15)
        axis.legend(frameon=False, fontsize=8)

    return draw


def intervals(points: Sequence[tuple[str | float, float, float, float]], label: str) -> Draw:
    """Values with intervals, over names in rows or over places on an axis.

    Args:
        points: (name or place, value, low, high); all have names, or all places.
        label: of the axis of places.
    """

    def draw(axis: Any, ink: str) -> None:
        names = [place for place, *_ in points if isinstance(place, str)]
        values = np.array([value for _, value, _, _ in points])
        lows = np.array([low for *_, low, _ in points])
        highs = np.array([high for *_, high in points])
        bars = np.maximum(np.stack([values - lows, highs - values]), 0.0)
        style: dict[str, Any] = {"fmt": "o", "markersize": 4, "capsize": 2, "color": COLOURS[0]}
        if names:
            axis.errorbar(values, range(len(points)), xerr=bars, **style)
            axis.set_yticks(range(len(points)), names)
            axis.invert_yaxis()
            axis.grid(axis="x", color=ink, alpha=0.15)
        else:
            axis.errorbar([place for place, *_ in points], values, yerr=bars, **style)
            axis.set_xlabel(label)
            axis.grid(axis="y", color=ink, alpha=0.15)

    return draw
