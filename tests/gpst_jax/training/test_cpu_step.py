"""The train step of one CPU gives the losses of the program for meshes and accelerators."""

import jax
import numpy as np
import pytest

from gpst_jax.benchmarks import workload
from gpst_jax.objectives import GPSTObjective
from gpst_jax.parallel import layer_loop, sharding
from gpst_jax.training import optimizer
from gpst_jax.training import step as train_step

STEPS = 20


def losses() -> np.ndarray:
    """Losses (STEPS, 2) and gradient norms of a toy run on one batch."""
    work = workload.small("toy").with_model(dtype="float32")
    objective, config = GPSTObjective(work.config, work.layout), work.config
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    found = []
    with jax.set_mesh(mesh):
        batch = jax.device_put(work.batch(), sharding.batch_sharding(mesh))
        state = train_step.init_state(objective, config, mesh)
        step = train_step.make_train_step(objective, config, mesh)
        for _ in range(STEPS):
            state, report = step(state, batch)
            found.append([report.pairs[name][0] for name in ("loss", "gradient_norm")])
    return np.array(found, np.float64)


def test_losses_are_those_of_the_other_program(monkeypatch: pytest.MonkeyPatch):
    found = losses()
    for module in (layer_loop, optimizer):
        monkeypatch.setattr(module, "on_one_cpu", lambda: False)
    expected = losses()
    assert found[-1, 0] < found[0, 0]
    np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found[:, 1], expected[:, 1], rtol=1e-3)
