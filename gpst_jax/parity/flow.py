"""Parity of flow matching with golden tensors of the official perceptual model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.tokens import TokenLayout
from gpst_jax.config import FlowConfig, TransformerConfig
from gpst_jax.generation import ode_solvers
from gpst_jax.models import flow_matching
from gpst_jax.models.conformer import split_depth
from gpst_jax.models.flow_matching import FlowMatcher
from gpst_jax.parity import conformer
from gpst_jax.parity.golden import Golden


def recognises(golden: Golden) -> bool:
    """Whether the file holds flow matching, by the names of its weights."""
    return "weights/to_embed.weight" in golden.entries


def check(golden: Golden) -> dict[str, float]:
    """Largest absolute difference of each stored output.

    Raises:
        UserError: the file lacks an entry, or one has another shape than ours.
    """
    config = configuration(golden)
    params = jax.tree.map(jnp.asarray, import_weights(golden, config))
    model = flow_matching.bind(config, TokenLayout(1, 1, 1), params)
    with jax.default_matmul_precision("highest"):
        return golden.differences(_training(model, golden) | _generation(model, golden))


def configuration(golden: Golden) -> FlowConfig:
    """The configuration of a file."""
    dim, depth, heads = (int(golden.scalar(name)) for name in ("dim", "depth", "heads"))
    chain = "explicit" if golden.scalar("explicit") else "plain"
    return FlowConfig(
        TransformerConfig(dim, depth, heads, 4 * dim),
        chain="implicit" if golden.scalar("start_from_cond") else chain,
        sigma=float(golden.scalar("sigma")),
    )


def import_weights(golden: Golden, config: FlowConfig) -> dict:
    """Our parameters from official weights; latents are not normalised."""
    side, middle = split_depth(config.net.num_layers)
    skips = [f"net.projs.{i}" for i in range(side)]

    def stack(part: str, count: int, skips: list[str]) -> dict:
        names = [f"net.{part}_layers.{i}" for i in range(count)]
        return {"layers": conformer.layers(golden, names, skips)}

    backbone = {"bottleneck": stack("bottleneck", middle, [])}
    if side:
        backbone["contracting"] = stack("contracting", side, [])
        backbone["expanding"] = stack("expanding", side, skips)
    latent = len(golden.weight("to_pred.weight"))
    return {
        "codebooks": {"embedding": np.zeros((1, 1, latent), np.float32)},
        "latent_shift": np.zeros((2, latent), np.float32),
        "latent_scale": np.ones((), np.float32),
        "to_embed": conformer.linear(golden, "to_embed"),
        "backbone": backbone,
        "to_pred": conformer.linear(golden, "to_pred", bias=False),
    }


def _training(model: FlowMatcher, golden: Golden) -> dict[str, Any]:
    x1, e, noise = (jnp.asarray(golden[f"inputs/{name}"]) for name in ("x1", "e", "eps"))
    t, valid = jnp.asarray(golden["inputs/t"]), jnp.asarray(golden["inputs/valid_mask"])
    predicted = jnp.asarray(golden["inputs/predict_mask"])
    context = flow_matching.prompt_context(x1, predicted)
    start, end = model.endpoints(x1, e, noise)

    @jax.jit
    def outputs(sigma: jax.Array) -> dict[str, Any]:
        x = flow_matching.path_point(start, end, t[:, None, None], sigma)
        target = flow_matching.path_velocity(start, end, sigma)
        inputs = model.network_input(x, e, context, t)
        embedded = model.embed(inputs)
        hidden = model.backbone_of(embedded, t, valid)
        prediction = model.predict(hidden)
        total, count = flow_matching.squared_error(prediction, target, predicted)
        return {
            "x_t": x,
            "net_input": inputs,
            "embedded": embedded,
            "backbone_out": hidden,
            "prediction": prediction,
            "target": target,
            "loss": total / count,
        }

    ours = {"outputs/context": context}
    for group, sigma in (("outputs", model.config.sigma), ("sigma01", 0.1)):
        found = outputs(jnp.float32(sigma))
        found["target_selected"] = found["target"][predicted]
        # For sigma 0.1 the file stores fewer intermediate results.
        names = found if group == "outputs" else ("x_t", "prediction", "target_selected", "loss")
        ours |= {f"{group}/{name}": found[name] for name in names}
    return ours


def _generation(model: FlowMatcher, golden: Golden) -> dict[str, Any]:
    e, e_prompt, x1_prompt, noise = (
        jnp.asarray(golden[f"gen/{name}"])
        for name in ("semantic_emb", "prompt_semantic_emb", "prompt_x1", "eps")
    )
    mask = jnp.asarray(golden["gen/target_mask"])
    steps = round(1 / float(golden.scalar("ode_step_size")))

    def solve(e, context, noise, valid):
        """Initial state, (time, velocity) of each function evaluation, and final state."""
        start, _ = model.endpoints(jnp.zeros_like(e), e, noise)
        calls: list[tuple[float, np.ndarray]] = []

        def field(x, t):
            found = model.velocity(x, e, context, jnp.full(len(x), t), valid)
            jax.debug.callback(
                lambda t, found: calls.append((float(t), np.asarray(found))), t, found, ordered=True
            )
            return found

        full = jax.jit(lambda x: ode_solvers.integrate(field, x, steps))(start)
        jax.effects_barrier()
        return start, calls, full

    context = jnp.concatenate([x1_prompt, jnp.zeros_like(e)], axis=1)
    e_all = jnp.concatenate([e_prompt, e], axis=1)
    valid = jnp.concatenate([jnp.ones(e_prompt.shape[:2], bool), mask], axis=1)
    start, calls, full = solve(e_all, context, noise, valid)
    frames = e.shape[1]
    alone_start, _, alone = solve(e, jnp.zeros_like(e), noise[:, :frames], mask)
    return {
        "gen/y0": start,
        "gen/first_net_input": model.network_input(start, e_all, context, jnp.zeros(len(e))),
        "gen/eval_times": np.asarray([time for time, _ in calls]),
        "gen/velocity_0": calls[0][1],
        "gen/velocity_1": calls[1][1],
        "gen/y_full": full,
        "gen/output": full[:, -frames:],
        "gen/n_evaluations": len(calls),
        "gen_noprompt/y0": alone_start,
        "gen_noprompt/output": alone,
    }
