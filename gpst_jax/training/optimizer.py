"""The optimiser: schedules, AdamW and Muon, weight-decay masks, and the guard against bad steps.

The learning rate counts *applied* updates: a skipped step leaves the parameters, the moments and
the schedule unchanged.

A new optimiser is a name in `config.OptimizerConfig` and a branch of `make_optimizer`; a new
schedule, one of `make_schedule`.
"""

import functools
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from gpst_jax.config import OptimizerConfig
from gpst_jax.parallel import sharding
from gpst_jax.parallel.cpu_compiler import on_one_cpu
from gpst_jax.parallel.sharding import path_string

_NORM_DECAY = 0.98  # decay of the running average of gradient norms: about 50 steps
_NORM_WARMUP = 20  # accepted steps before the average may call a norm a spike


def make_schedule(config: OptimizerConfig, steps: int, peak: float | None = None) -> optax.Schedule:
    """Builds the learning rate as a function of the number t of updates applied before.

    All schedules rise linearly, peak * (t + 1) / w for t < w with w = `warmup_steps`, and then

    * `inverse_sqrt`: peak * sqrt(w / (t + 1));
    * `cosine`: half a cosine from the peak at t = w to `final_fraction` of it at t = `steps`;
    * `wsd` (warmup, stable, decay): constant at the peak, then over the last `decay_fraction` of
      the steps linear decay to `final_fraction` of it at t = `steps`.

    Args:
        config: the schedule's name and shape.
        steps: updates of the whole run.
        peak: the highest learning rate; None is `config.learning_rate`.
    """
    peak = config.learning_rate if peak is None else peak
    warmup = config.warmup_steps
    decay_steps = max(round(config.decay_fraction * steps), 1)

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        t = jnp.asarray(count, jnp.float32)
        if config.schedule == "inverse_sqrt":
            factor = jnp.sqrt(max(warmup, 1) / (t + 1))
        elif config.schedule == "cosine":
            progress = jnp.clip((t - warmup) / max(steps - warmup, 1), 0, 1)
            factor = _between(0.5 * (1 + jnp.cos(math.pi * progress)), config.final_fraction)
        else:
            progress = jnp.clip((t - (steps - decay_steps)) / decay_steps, 0, 1)
            factor = _between(1 - progress, config.final_fraction)
        return peak * jnp.where(t < warmup, (t + 1) / max(warmup, 1), factor)

    return schedule


def _between(factor: jax.Array, floor: float) -> jax.Array:
    return floor + (1 - floor) * factor


def decays(path: str) -> bool:
    """Whether weight decay acts on a parameter: only on the kernels of linear maps.

    Norm gains and biases have no scale to keep small; rows of an embedding table are updated
    rarely, and decay between updates would shrink those of rare ids towards zero.
    """
    return path.rsplit("/", 1)[-1] == "kernel"


def is_hidden_kernel(path: str) -> bool:
    """Whether Muon updates a parameter: the kernels of transformer layers, not heads or projectors.

    Nor the adaLN-zero modulation, which is wide, of low rank and zero-initialised.
    """
    return decays(path) and re.search(r"(^|/)layers/(?!modulation/)", path) is not None


def make_optimizer(
    config: OptimizerConfig, steps: int, trainable: Callable[[str], bool] = lambda path: True
) -> optax.GradientTransformation:
    """Builds clipping by global norm followed by AdamW or Muon.

    Args:
        config: the optimiser's section of the run.
        steps: updates of the whole run, for the schedule.
        trainable: whether the parameter at a path is updated. Frozen ones have no moments and no
            part in the gradient norm.
    """
    if config.name == "muon":
        update = optax.partition(
            {"muon": _muon(config, steps), "adamw": _adamw(config, steps)},
            lambda params: _map_paths(
                lambda path: "muon" if is_hidden_kernel(path) else "adamw", params
            ),
        )
    else:
        update = _adamw(config, steps)
    update = optax.chain(clip_by_norm(config.clip_norm), update)

    def labels(params):
        return _map_paths(lambda path: "train" if trainable(path) else "frozen", params)

    return optax.partition({"train": update, "frozen": optax.set_to_zero()}, labels)


def global_norm(tree: Any) -> jax.Array:
    """The norm of all leaves together, a float32 scalar."""
    if not on_one_cpu():
        return optax.tree.norm(tree)
    # Twice as fast on a CPU as a sum of squares, which XLA takes apart into windows.
    return jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree)))


def clip_by_norm(max_norm: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm`; on one CPU by a factor that fuses with what follows.

    A quotient would be written to memory, since it is used twice and XLA repeats no division.
    """
    clip = optax.clip_by_global_norm(max_norm)

    def update(updates, state, params=None):
        if not on_one_cpu():
            return clip.update(updates, state, params)
        norm = global_norm(updates)
        scale = jnp.where(norm < max_norm, 1.0, max_norm / norm)
        return jax.tree.map(lambda leaf: leaf * scale, updates), state

    return optax.GradientTransformation(clip.init, update)


def _adamw(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    return optax.adamw(
        make_schedule(config, steps),
        b1=config.beta1,
        b2=config.beta2,
        weight_decay=config.weight_decay,
        mask=lambda params: _map_paths(decays, params),
    )


def _muon(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """`optax.contrib.muon` for kernels (layers, in, out), resharded for Newton-Schulz on a mesh."""
    return optax.chain(
        # No Newton-Schulz steps here: Nesterov momentum, and each matrix divided by its norm.
        optax.contrib.scale_by_muon(ns_steps=0, weight_dimension_numbers=_matrices),
        optax.stateless(lambda updates, _: _orthogonalise(updates)),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(make_schedule(config, steps, config.muon_learning_rate)),
    )


def _matrices(tree: Any) -> Any:
    return jax.tree.map(
        lambda leaf: optax.contrib.MuonDimensionNumbers(leaf.ndim - 2, leaf.ndim - 1), tree
    )


def _orthogonalise(updates: Any) -> Any:
    """Newton-Schulz iterations on each layer's matrix, and the scale of its shape.

    On a mesh the updates are resharded so that each device owns whole layers: one all-to-all
    before and one after, and none between replicas. By itself the compiler iterates on matrices
    sharded over `fsdp`, with a reduction for every product, and shards the rows over all replicas,
    also across the data-centre network between slices.
    """
    # Without momentum this is the iteration alone; its state is unused.
    iteration = optax.contrib.scale_by_muon(
        beta=0.0, nesterov=False, weight_dimension_numbers=_matrices
    )
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        result, _ = iteration.update(updates, iteration.init(updates))
    else:
        # Stating the source sharding keeps the compiler from resharding the moments instead.
        own = sharding.parameter_shardings(mesh, updates)
        gathered = jax.tree.map(_gather_layers, jax.lax.with_sharding_constraint(updates, own), own)
        gathered, _ = iteration.update(gathered, iteration.init(gathered))
        result = jax.tree.map(_scatter_layers, gathered, own, updates)
    return jax.tree.map(lambda x: x * math.sqrt(max(1, x.shape[-1] / x.shape[-2])), result)


def _gather_layers(x: jax.Array, own: NamedSharding) -> jax.Array:
    """Shards the layers over all devices of a replica, zero-padded until they divide."""
    fill = -x.shape[0] % (own.mesh.shape["fsdp"] * own.mesh.shape["tensor"])
    x = jnp.pad(x, ((0, fill), (0, 0), (0, 0)))
    return functools.reduce(jax.lax.with_sharding_constraint, _resharding_steps(own), x)


def _scatter_layers(x: jax.Array, own: NamedSharding, like: jax.Array) -> jax.Array:
    """Undoes `_gather_layers`."""
    x = functools.reduce(jax.lax.with_sharding_constraint, reversed(_resharding_steps(own)), x)
    return jax.lax.with_sharding_constraint(x[: like.shape[0]], own)


def _resharding_steps(own: NamedSharding) -> list[PartitionSpec]:
    """First `fsdp` moves to the layer axis, then `tensor`: one all-to-all per mesh axis."""
    tensor = sharding.without_data_axes(own.spec)[1:]
    return [PartitionSpec("fsdp", *tensor), PartitionSpec(("fsdp", "tensor"), None, None)]


def _map_paths(function: Callable[[str], Any], tree: Any) -> Any:
    return jax.tree.map_with_path(lambda path, _: function(path_string(path)), tree)


class Guard(NamedTuple):
    """Counters of the guard, all scalars; part of the training state."""

    norm: jax.Array  # running average of accepted gradient norms, before bias correction; float32
    applied: jax.Array  # updates applied; int32
    skipped: jax.Array  # steps skipped in the whole run; int32
    in_row: jax.Array  # steps skipped since the last applied one; int32


def init_guard() -> Guard:
    """The guard before the first step."""
    return Guard(jnp.zeros((), jnp.float32), *(jnp.zeros((), jnp.int32) for _ in range(3)))


def check_step(
    guard: Guard, loss: jax.Array, gradient_norm: jax.Array, spike_factor: float
) -> tuple[jax.Array, Guard]:
    """Decides whether a step may change the parameters.

    A step is skipped when its loss or gradient norm is not finite, or, with `spike_factor` > 0 and
    after the first accepted steps, when the norm exceeds `spike_factor` times the running average.

    Returns:
        accepted: a boolean scalar; and the guard after the step.
    """
    accepted = jnp.isfinite(loss) & jnp.isfinite(gradient_norm)
    if spike_factor > 0:
        average = guard.norm / (1 - _NORM_DECAY ** jnp.maximum(guard.applied, 1))
        trusted = guard.applied >= _NORM_WARMUP
        accepted &= ~trusted | (gradient_norm <= spike_factor * average)
    new = Guard(
        norm=jnp.where(
            accepted, _NORM_DECAY * guard.norm + (1 - _NORM_DECAY) * gradient_norm, guard.norm
        ),
        applied=guard.applied + accepted,
        skipped=guard.skipped + ~accepted,
        in_row=jnp.where(accepted, 0, guard.in_row + 1),
    )
    return accepted, new
