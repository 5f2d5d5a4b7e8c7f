"""Mel spectrograms and loss curves for the report page, as PNG bytes."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MEL_BANDS = 80
_HOP_SECONDS = 0.01
_DYNAMIC_RANGE_DB = 70.0
# Readable on white and near-black; from the Okabe-Ito palette.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c", "#b58900")


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


def curves_png(
    panels: Sequence[tuple[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]],
    *,
    dark: bool,
) -> bytes:
    """Panels of loss curves, side by side.

    Args:
        panels: (title, label -> (steps, values)); a label that starts with "eval" is drawn
            dashed, in the colour of the same label without "eval".
        dark: whether for a dark background.
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
            1, len(panels), figsize=(4.6 * len(panels), 3.0), squeeze=False, layout="constrained"
        )
        for axis, (title, curves) in zip(axes[0], panels, strict=True):
            names = list(dict.fromkeys(label.removeprefix("eval ") for label in curves))
            for label, (steps, values) in curves.items():
                held_out = label.startswith("eval ")
                colour = _COLOURS[names.index(label.removeprefix("eval ")) % len(_COLOURS)]
                axis.plot(
                    steps,
                    values,
                    color=colour,
                    linestyle="--" if held_out else "-",
                    linewidth=1.4 if held_out else 1.0,
                    alpha=1.0 if held_out else 0.75,
                    label=label.removeprefix("eval ") + (" (held out)" if held_out else ""),
                )
            axis.set_title(title, loc="left", fontsize=10)
            axis.set_xlabel("step")
            axis.set_ylabel("nats")
            axis.grid(axis="y", color=ink, alpha=0.15)
            columns = 2 if len(curves) > 6 else 1
            axis.legend(frameon=False, fontsize=8, ncols=columns)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=160, transparent=True)
        pyplot.close(figure)
    return buffer.getvalue()
