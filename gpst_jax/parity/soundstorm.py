"""Parity of SoundStorm with golden tensors of the official perceptual model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.tokens import TokenLayout
from gpst_jax.config import SoundStormConfig, TransformerConfig
from gpst_jax.models import soundstorm
from gpst_jax.models.soundstorm import SoundStorm
from gpst_jax.objectives import losses
from gpst_jax.parity import conformer
from gpst_jax.parity.golden import Golden


def recognises(golden: Golden) -> bool:
    """Whether the file holds SoundStorm, by the names of its weights."""
    return "weights/net.code_embeds.weight" in golden.entries


def check(golden: Golden) -> dict[str, float]:
    """Largest absolute difference of each stored output; inf where integers differ.

    Raises:
        UserError: the file lacks an entry, or one has another shape than ours.
    """
    config, layout = configuration(golden)
    params = jax.tree.map(jnp.asarray, import_weights(golden, config))
    model = soundstorm.bind(config, layout, params)
    with jax.default_matmul_precision("highest"):
        return golden.differences(_training(model, golden) | _once(model, golden))


def configuration(golden: Golden) -> tuple[SoundStormConfig, TokenLayout]:
    """The configuration of a file: all codebooks are generated, units have their own table."""
    dim, depth, heads = (int(golden.scalar(name)) for name in ("dim", "depth", "heads"))
    config = SoundStormConfig(TransformerConfig(dim, depth, heads, 4 * dim), semantics="table")
    names = ("num_semantic_ids", "num_quantizers", "codebook_size")
    return config, TokenLayout(*(int(golden.scalar(name)) for name in names))


def import_weights(golden: Golden, config: SoundStormConfig) -> dict:
    """Our parameters from official weights."""
    blocks = [f"net.net.layers.{i}" for i in range(config.net.num_layers)]
    return {
        "code_embed": {"embedding": golden.weight("net.code_embeds.weight")},
        "semantic_embed": {"embedding": golden.weight("semantic_token_emb.weight")},
        "backbone": {"stack": {"layers": conformer.layers(golden, blocks)}},
        "level_head": conformer.linear(golden, "net.heads.0"),
        "head_norm": conformer.norm(golden, "net.to_logits.0"),
        "acoustic_head": {
            "kernel": golden.weight("net.to_logits.2.weight"),
            "bias": golden.weight("net.to_logits.2.bias")[0, 0],
        },
    }


def _training(model: SoundStorm, golden: Golden) -> dict[str, Any]:
    codes, units = (jnp.asarray(golden[f"inputs/{name}"]) for name in ("codes", "semantic_ids"))
    valid = jnp.asarray(golden["inputs/valid_mask"])

    @jax.jit
    def outputs(ids, rows, selected):
        hidden = model.hidden(ids, units, valid)
        targets = jnp.take_along_axis(codes, rows[:, None, None], axis=2)[..., 0]
        _, nll = losses.cross_entropy(model.level_logits(hidden, rows), targets, selected)
        return model.logits(hidden), nll / selected.sum()

    ours: dict[str, Any] = {}
    for level in range(model.num_levels):
        selected = jnp.asarray(golden[f"level{level}/selected"])
        prompt = jnp.arange(codes.shape[1]) < golden[f"level{level}/prompt_len"].item()
        prompt = jnp.broadcast_to(prompt[None], selected.shape)
        rows = jnp.full(len(codes), level)
        ids = soundstorm.mask_codes(codes, rows, selected, prompt, model.mask_id)
        logits, loss = outputs(ids, rows, selected)
        ours |= {
            f"level{level}/net_input_ids": ids,
            f"level{level}/logits": logits,
            f"level{level}/loss": loss,
        }
    return ours


def _once(model: SoundStorm, golden: Golden) -> dict[str, Any]:
    units, prompt = (
        jnp.asarray(golden[f"once/{name}"]) for name in ("semantic_ids", "prompt_tokens")
    )
    hidden = jnp.full((*units.shape, model.num_levels), model.mask_id)
    ids = jnp.concatenate([prompt[..., 1:], hidden], axis=1)
    semantics = jnp.concatenate([prompt[..., 0], units], axis=1)
    logits = jax.jit(lambda ids: model.logits(model.hidden(ids, semantics)))(ids)
    codes = np.asarray(logits.argmax(axis=-1))[:, prompt.shape[1] :]
    return {"once/output": np.concatenate([np.asarray(units)[..., None], codes], axis=-1)}
