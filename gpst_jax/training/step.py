"""The training state and the compiled steps over it: training and evaluation.

These are pure functions of an `Objective`, a configuration and a mesh, so the loop and the
compile-only check build the very same program.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from gpst_jax.config import ConfigError, RunConfig
from gpst_jax.objectives import Objective
from gpst_jax.parallel import sharding
from gpst_jax.training import optimizer

Batch = Mapping[str, Any]


class TrainState(NamedTuple):
    """All that changes from step to step; every leaf is a jax array."""

    step: jax.Array  # finished steps, skipped ones included; int32 scalar
    params: Any  # nested dict, float32
    opt_state: Any
    ema: Any  # moving average of the parameters, or None
    rng: jax.Array  # key data of the run; step i uses fold_in(key, i)
    guard: optimizer.Guard


def _initial_state(objective: Objective, config: RunConfig, params: Any = None) -> TrainState:
    key = jax.random.key(config.train.seed)
    params = objective.init(jax.random.fold_in(key, 0)) if params is None else params
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=_make_tx(objective, config).init(params),
        ema=jax.tree.map(jnp.copy, params) if config.train.ema_decay else None,
        rng=jax.random.key_data(jax.random.fold_in(key, 1)),
        guard=optimizer.init_guard(),
    )


def _make_tx(objective: Objective, config: RunConfig) -> optax.GradientTransformation:
    return optimizer.make_optimizer(config.optimizer, config.train.steps, objective.trainable)


def abstract_state(objective: Objective, config: RunConfig, mesh: Any) -> TrainState:
    """The state as ShapeDtypeStructs with shardings, for restoring and for AOT compilation."""
    shapes = jax.eval_shape(lambda: _initial_state(objective, config))
    params = sharding.parameter_shardings(mesh, shapes.params)
    # Moments and EMA repeat the parameters' paths; counters do not, and are replicated.
    shardings = sharding.like_parameters(shapes, shapes.params, params, mesh)
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        shapes,
        shardings,
    )


def init_state(
    objective: Objective,
    config: RunConfig,
    mesh: jax.sharding.Mesh,
    initial: Callable[[Any], Any] | None = None,
) -> TrainState:
    """A fresh state, made in place on its devices; its values do not depend on the mesh.

    Args:
        objective: the model family.
        config: the run.
        mesh: the devices.
        initial: gives the parameters, which are donated, from their shapes and shardings; None:
            random initialisation.
    """
    abstract = abstract_state(objective, config, mesh)
    shardings = _shardings(abstract)
    if initial is None:
        return jax.jit(lambda: _initial_state(objective, config), out_shardings=shardings)()
    make = jax.jit(
        lambda params: _initial_state(objective, config, params),
        in_shardings=(shardings.params,),
        out_shardings=shardings,
        donate_argnums=0,
    )
    return make(initial(abstract.params))


def _shardings(abstract: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, abstract)


class StepMetrics(NamedTuple):
    """What a train step reports; all leaves are scalars."""

    pairs: dict[str, tuple[jax.Array, jax.Array]]  # (sum, count) by name
    work: dict[str, jax.Array]  # tokens and seconds of audio in the batch
    learning_rate: jax.Array
    accepted: jax.Array  # false where the step was skipped
    guard: optimizer.Guard


def make_train_step(objective: Objective, config: RunConfig, mesh: Any) -> jax.stages.Wrapped:
    """The jitted training step; its state is donated. Call (or lower) it under the mesh.

    The program maps a TrainState and a batch to the next TrainState and StepMetrics.

    With `train.grad_accum_steps` = A the batch is split into A micro-batches that run in sequence.
    Their losses are normalised by the weights of the whole batch, so they add up to its loss.

    Args:
        objective: the model family.
        config: the run.
        mesh: a Mesh, or an AbstractMesh to compile for devices that are not here.

    Raises:
        ConfigError: the batch size does not divide over the micro-batches and the mesh.
    """
    count = config.train.grad_accum_steps
    shards = sharding.num_row_shards(mesh)
    rows = jax.tree.leaves(objective.batch_spec())[0].shape[0]
    if rows % (count * shards):
        raise ConfigError(
            f"config field data.batch_size: {rows} rows cannot be split into "
            f"train.grad_accum_steps={count} micro-batches over {shards} "
            f"devices (mesh.replica x mesh.fsdp); make it a multiple of {count * shards}"
        )
    abstract = abstract_state(objective, config, mesh)
    state_shardings = _shardings(abstract)
    row_sharding = sharding.batch_sharding(mesh)
    replicated = NamedSharding(mesh, PartitionSpec())
    tx = _make_tx(objective, config)
    schedule = optimizer.make_schedule(config.optimizer, config.train.steps)

    def loss(params, rows, key, weights):
        # A frozen parameter has no gradient, hence no part in the norm.
        params = jax.tree.map_with_path(
            lambda path, leaf: (
                leaf
                if objective.trainable(sharding.path_string(path))
                else jax.lax.stop_gradient(leaf)
            ),
            params,
        )
        return objective.loss(params, rows, key, weights, True)

    def gradients(params, rows, index, key, weights):
        (value, pairs), grads = jax.value_and_grad(loss, has_aux=True)(
            params, rows, jax.random.fold_in(key, index), weights
        )
        # Constraining to the parameters' sharding makes the all-reduce a reduce-scatter.
        grads = jax.lax.with_sharding_constraint(grads, state_shardings.params)
        return value, dict(pairs), grads

    def accumulated(params, batch, key, weights):
        if count == 1:
            return gradients(params, batch, 0, key, weights)

        def split(x):
            # Micro-batch i takes rows i, i + A, ...: each device splits its own rows.
            x = x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1)
            where = NamedSharding(mesh, PartitionSpec(None, *row_sharding.spec))
            return jax.lax.with_sharding_constraint(x, where)

        def body(carry, inputs):
            index, rows = inputs
            return jax.tree.map(jnp.add, carry, gradients(params, rows, index, key, weights)), None

        parts = jax.tree.map(split, dict(batch))
        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(gradients, params, first, 0, key, weights)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.lax.scan(body, zeros, (jnp.arange(count), parts))[0]

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
        value, pairs, grads = accumulated(state.params, batch, key, objective.weights(batch))
        norm = optimizer.global_norm(grads)
        accepted, guard = optimizer.check_step(
            state.guard, value, norm, config.optimizer.spike_factor
        )
        with jax.named_scope("optimizer"):
            updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            # Warmup of the decay: the EMA forgets the initial values.
            t = state.guard.applied.astype(jnp.float32)
            decay = jnp.minimum(config.train.ema_decay, (1 + t) / (10 + t))
            ema = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, ema, params)
        changed, kept = (params, opt_state, ema), (state.params, state.opt_state, state.ema)
        params, opt_state, ema = jax.tree.map(
            lambda new, old: jnp.where(accepted, new, old), changed, kept
        )
        report = StepMetrics(
            pairs=pairs | {"loss": (value, jnp.ones(())), "gradient_norm": (norm, jnp.ones(()))},
            work=objective.rates(batch),
            learning_rate=schedule(state.guard.applied),
            accepted=accepted,
            guard=guard,
        )
        return TrainState(state.step + 1, params, opt_state, ema, state.rng, guard), report

    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(state_shardings, row_sharding),
        out_shardings=(state_shardings, replicated),
        compiler_options=_compiler_options(mesh),
    )


def _compiler_options(mesh: Any) -> dict[str, str] | None:
    """Compiler options beyond the defaults, by platform."""
    device = mesh.abstract_mesh.abstract_device  # None where only the mesh's shape is known
    if device is None or device.platform != "tpu":
        return None
    # By default the TPU compiler splits the matmul after an all-gather into one step per device,
    # each with a small transfer (windowed einsum). Whole all-gathers, prefetched by the layer loop,
    # are what MaxText runs with as well; they compile faster, and their traffic is visible.
    return {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}


def make_eval_step(objective: Objective, mesh: Any) -> Callable[[Any, Batch], dict[str, Any]]:
    """The jitted (sum, count) metrics of one batch, without dropout; call it under the mesh."""

    def step(params, batch):
        key = jax.random.key(0)
        value, pairs = objective.loss(params, batch, key, objective.weights(batch), False)
        return dict(pairs) | {"loss": (value, jnp.ones(()))}

    return jax.jit(step, out_shardings=NamedSharding(mesh, PartitionSpec()))
