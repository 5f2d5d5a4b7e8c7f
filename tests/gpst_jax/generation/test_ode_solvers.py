"""ODE solvers: number of evaluations, times, order of convergence, and straight paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpst_jax.config import ConfigError
from gpst_jax.generation import ode_solvers

ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}
START = np.array([0.3, -1.0, 0.5])


def _smooth(x, t):
    return jnp.cos(3 * t) - jnp.sin(x) * (1 + t)


def _calls(solver, steps):
    """Times at which the field was really evaluated."""
    times = []

    def field(x, t):
        jax.debug.callback(lambda t: times.append(float(t)), t, ordered=True)
        return _smooth(x, t)

    ode_solvers.integrate(field, jnp.zeros(2), steps, solver).block_until_ready()
    jax.effects_barrier()
    return times


@pytest.mark.parametrize(("solver", "order"), ORDERS.items())
def test_error_falls_with_the_order_of_the_method(solver, order):
    with jax.enable_x64(True):
        start = jnp.asarray(START)
        exact = ode_solvers.integrate(_smooth, start, 256, "rk4")
        errors = [
            float(jnp.abs(ode_solvers.integrate(_smooth, start, steps, solver) - exact).max())
            for steps in (8, 16)
        ]
    assert errors[0] > errors[1] > 0
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.35)


@pytest.mark.parametrize(("solver", "stages"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
@pytest.mark.parametrize("steps", [1, 5])
def test_steps_are_performed_and_counted(solver, stages, steps):
    times = _calls(solver, steps)
    assert len(times) == stages * steps == ode_solvers.num_evaluations(solver, steps)


def test_sixteen_midpoint_steps_are_the_published_grid():
    np.testing.assert_allclose(_calls("midpoint", 16), np.arange(32) / 32, rtol=0, atol=1e-7)


@pytest.mark.parametrize("solver", ORDERS)
@pytest.mark.parametrize("steps", [1, 7])
def test_the_true_field_of_a_straight_path_is_exact_in_any_number_of_steps(solver, steps):
    start = jax.random.normal(jax.random.key(0), (3, 4))
    end = jax.random.normal(jax.random.key(1), (3, 4))
    found = ode_solvers.integrate(lambda x, t: end - start, start, steps, solver)
    np.testing.assert_allclose(found, end, atol=1e-6)


def test_bad_settings_are_refused():
    with pytest.raises(ConfigError, match=r"rk5.*midpoint"):
        ode_solvers.integrate(_smooth, jnp.zeros(2), 4, "rk5")
    with pytest.raises(ConfigError, match="steps"):
        ode_solvers.integrate(_smooth, jnp.zeros(2), 0)
