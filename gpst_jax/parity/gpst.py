"""Parity of GPST's `paper` block with golden tensors of the official code.

Official weights are imported into our model, raw units and codes pass through our token layout,
and every stored output is compared.
"""

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline import tokens
from data_pipeline.tokens import TokenLayout
from gpst_jax.config import GPSTConfig, TransformerConfig
from gpst_jax.models import gpst
from gpst_jax.models.gpst import GPST
from gpst_jax.objectives import losses
from gpst_jax.parity.golden import Golden

_GLOBAL, _LOCAL = "decoder.global_decoder", "decoder.local_decoder"
_BLOCK_PARTS = {
    "attn_norm": "self_attn_layer_norm",
    "attn/q": "self_attn.q_proj",
    "attn/k": "self_attn.k_proj",
    "attn/v": "self_attn.v_proj",
    "attn/out": "self_attn.out_proj",
    "mlp_norm": "final_layer_norm",
    "mlp/up": "fc1",
    "mlp/down": "fc2",
}


def recognises(golden: Golden) -> bool:
    """Whether the file holds GPST, by the names of its weights."""
    return f"weights/{_GLOBAL}.embed_tokens.weight" in golden.entries


def check(golden: Golden) -> dict[str, float]:
    """Largest absolute difference of each stored output; inf where integers differ.

    Raises:
        UserError: the file lacks an entry, or one has another shape than ours.
    """
    config, layout, deduplicated = _configuration(golden)
    model = gpst.bind(config, layout, import_weights(golden, config))
    batch = _batch(golden, layout, deduplicated)
    with jax.default_matmul_precision("highest"):
        return golden.differences(_forward(model, layout, batch, golden))


def import_weights(golden: Golden, config: GPSTConfig) -> dict:
    """Our parameters (nested dict of float32 arrays) from official weights."""

    def get(name: str) -> np.ndarray:
        return golden.weight(name)

    def affine(name: str, kind: str) -> dict:
        weight = get(f"{name}.weight")
        matrix = weight.T if kind == "kernel" else weight
        return {kind: matrix, "bias": get(f"{name}.bias")}

    def net(prefix: str, num_layers: int) -> dict:
        layers: dict = {}
        for ours, theirs in _BLOCK_PARTS.items():
            kind = "scale" if ours.endswith("norm") else "kernel"
            parts = [affine(f"{prefix}.layers.{i}.{theirs}", kind) for i in range(num_layers)]
            node = layers
            *parents, leaf = ours.split("/")
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = {key: np.stack([part[key] for part in parts]) for key in parts[0]}
        return {
            "layers": layers,
            "final_norm": affine(f"{prefix}.layer_norm", "scale"),
            "embed": {"embedding": get(f"{prefix}.embed_tokens.weight")},
            # The first two rows of the official table are reserved for padding and never used.
            "positions": {"embedding": get(f"{prefix}.embed_positions.weight")[2:]},
        }

    acoustic = get(f"{_LOCAL}.output_projection.weight")
    return {
        "global_net": net(_GLOBAL, config.global_net.num_layers),
        "local_net": net(_LOCAL, config.local_net.num_layers),
        "projector": affine("decoder.global_local_projector", "kernel"),
        "semantic_head": {"kernel": get(f"{_GLOBAL}.output_projection.weight").T},
        "acoustic_head": {"kernel": acoustic.T if config.shared_acoustic_head else acoustic},
    }


def _configuration(golden: Golden) -> tuple[GPSTConfig, TokenLayout, bool]:
    def scalar(name: str):
        return golden[f"config/{name}"].item()

    def net(level: str) -> TransformerConfig:
        return TransformerConfig(
            *(int(scalar(f"{level}_{part}")) for part in ("dim", "layers", "heads", "ffn"))
        )

    positions = golden[f"weights/{_GLOBAL}.embed_positions.weight"]
    config = GPSTConfig(
        global_net=net("global"),
        local_net=net("local"),
        block="paper",
        shared_acoustic_head=bool(scalar("share_lm_head")),
        label_smoothing=float(scalar("label_smoothing")),
        max_positions=len(positions) - 2,
    )
    layout = TokenLayout(
        int(scalar("source_vocab")), int(scalar("depth")), int(scalar("codec_dim")), 50, 75
    )
    return config, layout, bool(scalar("reduce"))


def _batch(golden: Golden, layout: TokenLayout, deduplicated: bool) -> dict[str, np.ndarray]:
    """Segments of the stored items, one per row, in stored order."""
    items = []
    for item in golden["inputs/order"]:
        units = golden[f"inputs/units_{item}"]
        codes = golden[f"inputs/codes_{item}"][: layout.num_codebooks]
        items.append(
            tokens.segment_tokens(
                layout, [(units, codes)], positions="running", deduplicated=deduplicated
            )
        )

    def stack(name: str, fill: int) -> np.ndarray:
        longest = max(len(item[name]) for item in items)
        shape = (len(items), longest, *items[0][name].shape[1:])
        out = np.full(shape, fill, np.int32)
        for row, item in zip(out, items, strict=True):
            row[: len(item[name])] = item[name]
        return out

    batch = {name: stack(name, 0) for name in ("positions", "streams", "frame_index")}
    batch["tokens"] = stack("tokens", tokens.PAD)
    batch["frames"] = stack("frames", tokens.PAD)
    batch["semantic_targets"] = stack("semantic_targets", tokens.NO_TARGET)
    batch["segment_ids"] = (batch["tokens"][..., 0] != tokens.PAD).astype(np.int32)
    batch["frame_segments"] = (batch["frames"][..., 0] != tokens.PAD).astype(np.int32)
    return batch


def _forward(model: GPST, layout: TokenLayout, batch, golden: Golden) -> dict[str, np.ndarray]:
    real, frames_mask = batch["segment_ids"] > 0, batch["frame_segments"] > 0
    predicts = batch["semantic_targets"] >= 0
    embeds = model.embed(batch["tokens"], batch["positions"], batch["streams"])
    hidden = model.hidden(
        batch["tokens"], batch["positions"], batch["streams"], batch["segment_ids"]
    )
    taken = np.take_along_axis(np.asarray(hidden), batch["frame_index"][:, :, None], axis=1)
    picked = jnp.asarray(taken[frames_mask])
    frames = jnp.asarray(batch["frames"][frames_mask])
    local = model.local_hidden(picked, frames)
    semantic, acoustic = model.semantic_logits(hidden[predicts]), model.acoustic_logits(local)
    semantic_targets = batch["semantic_targets"][predicts]
    acoustic_targets = layout.ids_to_classes(batch["frames"][frames_mask])
    smoothing = model.config.label_smoothing
    row, frame = np.nonzero(frames_mask)

    def means(logits, targets):
        ones = jnp.ones(targets.shape)
        return [
            total / targets.size
            for total in losses.cross_entropy(logits, jnp.asarray(targets), ones, smoothing)
        ]

    semantic_loss, semantic_nll = means(semantic, semantic_targets)
    acoustic_loss, acoustic_nll = means(acoustic, acoustic_targets)
    labels = np.full(golden["inputs/src_labels"].shape, tokens.PAD)
    for label, targets in zip(labels, batch["semantic_targets"], strict=True):
        kept = targets[targets >= 0]
        label[: len(kept)] = kept

    def real_rows(name: str, value) -> np.ndarray:
        # Padded positions are undefined: use the stored values there.
        return np.where(real[..., None], np.asarray(value), golden[name])

    ours = {
        "inputs/src_tokens": batch["tokens"],
        "inputs/prev_output_tokens": batch["frames"],
        "inputs/src_labels": labels,
        "inputs/src_lengths": predicts.sum(axis=1),
        "inputs/target_lengths": frames_mask.sum(axis=1),
        "outputs/global_embeds": real_rows("outputs/global_embeds", embeds),
        "outputs/global_hidden": real_rows("outputs/global_hidden", hidden),
        "outputs/local_embeds": model.local_inputs(picked, frames),
        "outputs/local_hidden": local,
        "outputs/semantic_logits": semantic,
        "outputs/semantic_positions": np.argwhere(predicts),
        "outputs/semantic_targets": semantic_targets,
        "outputs/acoustic_logits": acoustic,
        "outputs/acoustic_positions": np.stack([row, batch["frame_index"][row, frame], frame], 1),
        "outputs/acoustic_targets": acoustic_targets,
        "outputs/semantic_loss": semantic_loss,
        "outputs/acoustic_loss": acoustic_loss,
        "outputs/semantic_nll": semantic_nll,
        "outputs/acoustic_nll": acoustic_nll,
        "outputs/loss": semantic_loss + acoustic_loss,
        "outputs/nll_loss": semantic_nll + acoustic_nll,
    }
    return {name: np.asarray(value) for name, value in ours.items()}
