"""IsoFLOP fits: which size is best at each training budget, and how it grows with the budget.

At each budget the losses of several sizes lie near a parabola in log N, whose lowest point is the
best size (Hoffmann et al., arXiv 2203.15556, approach 2). A line through log N over log C gives the
exponent a of N = k C^a; data grow with the exponent 1 - a where C is proportional to N D.
"""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from gpst_jax.studies import estimates
from gpst_jax.studies.figures import Figure

if TYPE_CHECKING:
    from gpst_jax.studies.page import Table

RESAMPLES = 1000
FEWEST_SIZES = 4  # of a parabola that is worth fitting
PUBLISHED = "0.37 for discrete audio (arXiv 2602.16687), 0.49 for text (arXiv 2203.15556)"


@dataclasses.dataclass(frozen=True)
class IsoFLOP:
    """The exponent of the best number of parameters over the training FLOPs, with an interval.

    Cells are grouped by their training FLOPs, equal ones to two digits.

    Attributes:
        figure: the loss, such as bits per second.
        parameters: the figure that holds the number of parameters.
        seed: of the bootstrap.
    """

    figure: Figure
    parameters: Figure
    seed: int = 0

    def lines(self, table: "Table") -> list[str]:
        """What the page says: the best size of each budget, and the exponent."""
        budgets: dict[float, list[str]] = {}
        for name in table.scores:
            if table.scores[name][self.figure.key]:
                budgets.setdefault(float(f"{table.training_flops(name):.2g}"), []).append(name)
        curves = {
            flops: self._curve(table, names)
            for flops, names in sorted(budgets.items())
            if len(names) >= FEWEST_SIZES
        }
        if not curves:
            return []
        said = []
        for flops, (sizes, sums) in curves.items():
            best = best_size(np.log(sizes), _losses(sums))
            where = "outside the sizes" if best is None else f"{np.exp(best) / 1e6:.1f} million"
            said.append(f"At {flops:.1e} training FLOPs the best size is {where}.")
        exponent, ends = fit(list(curves), list(curves.values()), self.seed)
        if exponent is None:
            said.append("No exponent: fewer than two budgets have a best size inside the sizes.")
        elif ends is None:
            said.append(f"The best size grows with C^{exponent:.2f}; resamples do not agree.")
        else:
            said.append(
                f"The best size grows with C^{exponent:.2f} [{ends[0]:.2f}, {ends[1]:.2f}], data "
                f"with C^{1 - exponent:.2f} (a bootstrap over seeds and speakers; the form of the "
                f"law is assumed). Published: {PUBLISHED}."
            )
        return said

    def _curve(self, table: "Table", names: list[str]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Sizes (S,), and of each the sums (seeds, units, 2) of the units that all have."""
        shared: set[str] | None = None
        for name in names:
            for score in table.scores[name][self.figure.key].values():
                own = set(score["units"]["sums"])
                shared = own if shared is None else shared & own
        order = sorted(shared or ())
        sums = [
            np.array([[s["units"]["sums"][u] for u in order] for s in of.values()]).reshape(
                len(of), len(order), 2
            )
            for of in (table.scores[name][self.figure.key] for name in names)
        ]
        sizes = [estimates.of_cell(table.scores[name][self.parameters.key]) for name in names]
        return np.array([size.value if size else np.nan for size in sizes]), sums


def _losses(sums: list[np.ndarray]) -> np.ndarray:
    totals = np.array([of_size.sum(axis=(0, 1)) for of_size in sums])
    return totals[:, 0] / totals[:, 1]


def best_size(log_sizes: np.ndarray, losses: np.ndarray) -> float | None:
    """The log of the size at the lowest point of the parabola; None where it is not inside."""
    curvature, slope, _ = np.polyfit(log_sizes, losses, 2)
    if curvature <= 0:
        return None
    best = -slope / (2 * curvature)
    return float(best) if log_sizes.min() <= best <= log_sizes.max() else None


def fit(
    budgets: list[float], curves: list[tuple[np.ndarray, list[np.ndarray]]], seed: int = 0
) -> tuple[float | None, tuple[float, float] | None]:
    """The exponent of the best size over the budget, and its 95 % interval.

    Args:
        budgets: training FLOPs.
        curves: of each, the sizes (S,) and of each size the sums (seeds, units, 2).
        seed: of the bootstrap, which draws the same units for all sizes, and seeds for each.

    Returns:
        The exponent, None where fewer than two budgets have a best size; the interval, None where
        a twentieth of the resamples or more have no exponent.
    """
    exponent = _exponent(budgets, [(sizes, _losses(sums)) for sizes, sums in curves])
    random = np.random.default_rng(seed)
    found = []
    for _ in range(RESAMPLES):
        drawn = []
        counts = {sums[0].shape[1] for _, sums in curves}
        units = {count: random.integers(0, count, count) for count in sorted(counts)}
        for sizes, sums in curves:
            chosen = units[sums[0].shape[1]]
            own = [of[random.integers(0, len(of), len(of))][:, chosen] for of in sums]
            drawn.append((sizes, _losses(own)))
        found.append(_exponent(budgets, drawn))
    usable = [one for one in found if one is not None]
    if exponent is None or len(usable) <= 0.95 * len(found):
        return exponent, None
    low, high = np.percentile(usable, [2.5, 97.5])
    return exponent, (float(low), float(high))


def _exponent(budgets: list[float], curves: list[tuple[np.ndarray, np.ndarray]]) -> float | None:
    best = [
        (c, best_size(np.log(n), losses)) for c, (n, losses) in zip(budgets, curves, strict=True)
    ]
    points = [(np.log(c), size) for c, size in best if size is not None]
    if len(points) < 2:
        return None
    line = np.array(points)
    return float(np.polyfit(line[:, 0], line[:, 1], 1)[0])
