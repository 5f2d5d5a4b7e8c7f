"""Speech beyond the window that a model was trained on, as overlapping windows.

A target is cut into pieces of half a window. The units and frames of a piece are the prompt of the
next, so that voice and pace go on, and no request is longer than the window. Where a prompt tells
the voice it stands before all pieces, with the end of the last one, and the pieces are shorter.
"""

import numpy as np

from data_pipeline.tokens import TokenLayout
from gpst_jax.checkpoints.manager import Loaded
from gpst_jax.config import GPSTConfig
from gpst_jax.generation.gpst_modes import Part
from gpst_jax.models import patterns

_SPARE_SECONDS = 0.5  # for silence and rounding


def window_seconds(model: Loaded, layout: TokenLayout, prompt_seconds: float) -> float:
    """Seconds of speech that fit one request whatever stands before them.

    Segments of training are this long; a table of positions, where there is one, must hold a
    prompt and silence as well.
    """
    trained = float(model.config.data.crop_seconds)
    gpst = model.config.model
    if not isinstance(gpst, GPSTConfig) or gpst.block != "paper":
        return trained
    # Where units are de-duplicated the model may take twice the frames.
    frames = layout.frame_rate * (2 if model.config.data.deduplicate else 1)
    fitting = patterns.seconds_in(gpst.pattern, gpst.max_positions, layout, frames)
    # Half a window follows a prompt, or another half.
    return min(trained, fitting, 2 * max(fitting - prompt_seconds - _SPARE_SECONDS, 0.1))


def cut(units: np.ndarray, seconds: float, layout: TokenLayout) -> list[np.ndarray]:
    """Pieces of units (S,) of at most half a window of `seconds`.

    They are of nearly equal length, and all but the last end at the end of a frame.
    """
    step = layout.units_per_step
    most = max(step, round(seconds / 2 * layout.unit_rate) // step * step)
    count = -(-len(units) // most)
    even = -(-len(units) // count)
    size = -(-even // step) * step
    return [units[start : start + size] for start in range(0, len(units), size)]


def tail(part: Part, seconds: float, layout: TokenLayout) -> Part:
    """The last `seconds` of units and frames, all of them where they are fewer."""
    units, codes = part
    step = layout.units_per_step
    count = max(step, round(seconds * layout.unit_rate) // step * step)
    if len(units) <= count:
        return part
    start = (len(units) - count) // step * step
    return units[start:], codes[:, layout.frame_at_unit(start) :]
