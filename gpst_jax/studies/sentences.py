"""What an interval allows to say, and no more."""

from gpst_jax.evaluation.metrics.statistics import Estimate
from gpst_jax.studies.definition import FEWEST_SEEDS
from gpst_jax.studies.figures import Figure


def number(figure: Figure, value: float, signed: bool = False) -> str:
    """A value of a figure as tables show it."""
    shown = round(value * figure.scale, figure.digits) + 0.0  # no -0
    return f"{shown:{'+' if signed else ''},.{figure.digits}f}"


def interval(figure: Figure, estimate: Estimate, signed: bool = False) -> str:
    """The interval as ` [low, high]`; empty where there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    ends = (number(figure, end, signed) for end in (estimate.low, estimate.high))
    return f" [{', '.join(ends)}]"


def cell_text(figure: Figure, estimate: Estimate | None, signed: bool = False) -> str:
    """An estimate as a cell of a table."""
    if estimate is None:
        return ""
    return number(figure, estimate.value, signed) + interval(figure, estimate, signed)


def sentence(
    cell: str, base: str, figure: Figure, estimate: Estimate, seeds: int, trained: bool
) -> str:
    """What the difference of a cell to its base shows.

    Args:
        cell: name of the cell.
        base: name of its base.
        figure: what is compared.
        estimate: of the difference.
        seeds: that both cells have.
        trained: whether cells were trained, each seed anew; else all are of one trained model.
    """
    found = f"{number(figure, estimate.value, True)}{interval(figure, estimate, True)}"
    names = f"{figure.label}: {cell} minus {base} is {found}"
    if estimate.low is None or estimate.high is None:
        return f"{names}, one number without an interval: nothing follows from it."
    if not estimate.low <= 0.0 <= estimate.high:
        words = f"{names}; {_direction(figure, estimate.value)}"
    else:
        words = f"{names}, which includes 0: no difference is shown"
    return f"{words} ({_about(estimate, seeds, trained)})."


def _direction(figure: Figure, value: float) -> str:
    higher = value > 0
    if not figure.better:
        return "higher" if higher else "lower"
    better = higher == (figure.better == "higher")
    return f"{'higher' if higher else 'lower'}, which is {'better' if better else 'worse'}"


def _about(estimate: Estimate, seeds: int, trained: bool) -> str:
    """What the interval is over, and what it does not cover."""
    level = estimate.over.removeprefix("seeds and ")
    units = f"{estimate.units} {level}" if level != "seeds" else ""
    if not trained:
        sampled = f", {seeds} seeds of sampling" if seeds > 1 else ""
        return f"a single run: one trained model{sampled}; interval over {units or 'seeds'}"
    if seeds >= FEWEST_SEEDS:
        return f"{seeds} seeds" + (f"; interval over seeds and {units}" if units else "")
    if seeds == 1:
        return f"a single run of each; interval over {units or 'seeds'}, other seeds not covered"
    over = units or "seeds"
    return f"single runs, {seeds} of each: too few seeds to cover others; interval over {over}"
