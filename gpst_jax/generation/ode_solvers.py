"""Explicit Runge-Kutta solvers of dx/dt = f(x, t) from t = 0 to 1, on a fixed grid.

`steps=N` means N steps of 1 / N. One scan over a Butcher tableau serves every method; a library
of solvers (diffrax) would add adaptive step sizes, whose cost is not known in advance and which
gain nothing on nearly straight paths.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpst_jax.config import ConfigError


class Tableau(NamedTuple):
    """Butcher tableau of a method: k_i = f(x + h sum_j a_ij k_j, t + c_i h), then x += h b k."""

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]


SOLVERS = {
    "euler": Tableau(((),), (1.0,), (0.0,)),
    "midpoint": Tableau(((), (0.5,)), (0.0, 1.0), (0.0, 0.5)),
    "heun": Tableau(((), (1.0,)), (0.5, 0.5), (0.0, 1.0)),
    "rk4": Tableau(
        ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
        (1 / 6, 1 / 3, 1 / 3, 1 / 6),
        (0.0, 0.5, 0.5, 1.0),
    ),
}


def tableau(solver: str) -> Tableau:
    """The coefficients of a method; raises ConfigError for an unknown one."""
    if solver not in SOLVERS:
        raise ConfigError(f"solver {solver!r} is unknown; choose one of {', '.join(SOLVERS)}")
    return SOLVERS[solver]


def num_evaluations(solver: str, steps: int) -> int:
    """The number of function evaluations of `integrate`."""
    return steps * len(tableau(solver).b)


def integrate(
    field: Callable[[jax.Array, jax.Array], jax.Array],
    start: jax.Array,
    steps: int,
    solver: str = "midpoint",
) -> jax.Array:
    """Solves the ODE; returns the state at t = 1.

    Args:
        field: maps a state and a time (scalar float32) to the derivative.
        start: the state at t = 0.
        steps: equal steps to t = 1, at least 1.
        solver: a name of `SOLVERS`.

    Raises:
        ConfigError: an unknown solver, or fewer than one step.
    """
    method = tableau(solver)
    if steps < 1:
        raise ConfigError(f"steps: must be at least 1, got {steps}")
    step_size = 1.0 / steps

    def weighted(state, weights, slopes):
        for weight, slope in zip(weights, slopes, strict=True):
            state = state if weight == 0.0 else state + step_size * weight * slope
        return state

    def step(state, index):
        slopes: list[jax.Array] = []
        for weights, shift in zip(method.a, method.c, strict=True):
            time = (index.astype(jnp.float32) + shift) / steps
            slopes.append(field(weighted(state, weights, slopes), time))
        return weighted(state, method.b, slopes), None

    return jax.lax.scan(step, start, jnp.arange(steps))[0]
