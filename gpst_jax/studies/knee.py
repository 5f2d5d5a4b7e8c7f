"""The knee of a curve: where a figure has most of its rise, with an interval over speakers."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from gpst_jax.evaluation.metrics import resampling
from gpst_jax.studies import estimates
from gpst_jax.studies.figures import Figure

if TYPE_CHECKING:
    from gpst_jax.studies.page import Table

RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Knee:
    """The first place at which a figure has risen by a share of what it rises in all.

    The rise is from the first cell to the highest of them; between cells the curve is straight.

    Attributes:
        figure: of which cells at several places have values.
        share: of the rise.
        seed: of the bootstrap.
    """

    figure: Figure
    share: float = 0.9
    seed: int = 0

    def lines(self, table: "Table") -> list[str]:
        """What the page says: the knee with its interval, or why there is none."""
        cells = [cell for cell in table.study.cells if table.scores[cell.name][self.figure.key]]
        places = [cell.place for cell in cells if cell.place is not None]
        if len(places) < 3 or len(places) < len(cells):
            return []
        sums = _by_unit([table.scores[cell.name][self.figure.key] for cell in cells])
        what = f"{self.share:.0%} of the rise of {self.figure.label}"
        if sums.shape[1] < 2:
            return [f"Where {what} is reached: too few speakers for an interval."]
        value, ends = knee(np.array(places), sums, self.share, self.seed)
        if value is None:
            return [f"{what}: the first place has the highest value, so that there is no rise."]
        axis = table.study.axis
        shown = f"{value:.2g}"
        if ends is None:
            return [f"{what} is reached at {shown} {axis}; resamples of the speakers do not agree."]
        return [
            f"{what} is reached at {shown} [{ends[0]:.2g}, {ends[1]:.2g}] {axis} (a bootstrap over "
            f"{sums.shape[1]} speakers or items; the ends cannot leave the places measured)."
        ]


def _by_unit(scores: list[estimates.Scores]) -> np.ndarray:
    """Sums over the seeds of each cell: (cells, units, 2), of the units that all cells have."""
    totals = []
    for of_cell in scores:
        sums: dict[str, np.ndarray] = {}
        for score in of_cell.values():
            for name, pair in score.get("units", {}).get("sums", {}).items():
                sums[name] = sums.get(name, np.zeros(2)) + np.array(pair)
        totals.append(sums)
    shared = sorted(set.intersection(*(set(sums) for sums in totals)))
    return np.array([[sums[name] for name in shared] for sums in totals]).reshape(
        len(totals), len(shared), 2
    )


def knee(
    places: np.ndarray, sums: np.ndarray, share: float, seed: int = 0
) -> tuple[float | None, tuple[float, float] | None]:
    """The knee and its 95 % interval.

    Args:
        places: (C,) of the cells, rising.
        sums: (C, G, 2) numerators and denominators of the units of each cell.
        share: of the rise.
        seed: of the bootstrap.

    Returns:
        The knee, None where nothing rises; and the interval, None where a twentieth of the
        resamples or more have no knee.
    """
    value = _knee(places, _curve(sums.sum(axis=1)), share)
    found = []
    for _, counts in resampling.resampled_counts(sums.shape[1], RESAMPLES, seed):
        curves = np.einsum("rg,cgk->rck", counts, sums)
        found += [_knee(places, _curve(curve), share) for curve in curves]
    usable = [one for one in found if one is not None]
    if value is None or len(usable) <= 0.95 * len(found):
        return value, None
    low, high = np.percentile(usable, [2.5, 97.5])
    return value, (float(low), float(high))


def _curve(sums: np.ndarray) -> np.ndarray:
    return sums[:, 0] / sums[:, 1]


def _knee(places: np.ndarray, curve: np.ndarray, share: float) -> float | None:
    top = float(curve.max())
    wanted = float(curve[0]) + share * (top - float(curve[0]))
    if not top > curve[0]:
        return None
    first = int(np.argmax(curve >= wanted))
    before, after = first - 1, first
    part = (wanted - curve[before]) / (curve[after] - curve[before])
    return float(places[before] + part * (places[after] - places[before]))
