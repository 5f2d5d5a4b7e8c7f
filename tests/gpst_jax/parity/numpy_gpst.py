"""The published GPST in plain NumPy and float64: raw units and codes to ids, logits and losses.

Written from the description of the official model, without code from the package, so that agreement
of the two is meaningful; never import the package here. Items are computed one by one, without
padding, and padded only where a stored array requires it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

PAD, EOS, SPECIALS = 1, 2, 4
GLOBAL, LOCAL = "decoder.global_decoder", "decoder.local_decoder"

Array = np.ndarray


class Item(NamedTuple):
    """One utterance as ids.

    Attributes:
        src: (T1 + T2 + 2, D) global input.
        labels: (T1 + 1,) semantic targets.
        frames: (T2 + 1, D) local ids of the frames and the end frame.
    """

    src: Array
    labels: Array
    frames: Array


def lay_out(config: Mapping[str, float], units: Array, codes: Array) -> Item:
    """Ids of one utterance from raw units (S,) and raw codes (stored_depth, T)."""
    depth, entries = int(config["depth"]), int(config["codec_dim"])
    shift = SPECIALS + int(config["source_vocab"])
    ids = [int(unit) + SPECIALS for unit in units]
    if config["reduce"]:
        ids = [x for i, x in enumerate(ids) if i == 0 or ids[i - 1] != x]
    frames = [
        [int(codes[q, t]) + q * entries + SPECIALS for q in range(depth)]
        for t in range(codes.shape[1])
    ]
    pads = [PAD] * (depth - 1)
    src = [[EOS, *pads]]
    src += [[x, *pads] for x in ids]
    src += [[EOS + shift] * depth]
    src += [[x + shift for x in frame] for frame in frames]
    return Item(np.array(src), np.array([*ids, EOS]), np.array([*frames, [EOS] * depth]))


def layer_norm(x: Array, gain: Array, bias: Array) -> Array:
    """Layer norm over the last axis: biased variance, epsilon 1e-5."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * gain + bias


def gelu(x: Array) -> Array:
    """Exact GELU, with the error function."""
    return 0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def transformer(
    weights: Mapping[str, Array], prefix: str, layers: int, heads: int, x: Array
) -> Array:
    """Causal pre-norm transformer over one sequence (n, d), final norm included."""

    def linear(name: str, x: Array) -> Array:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, x: Array) -> Array:
        return layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    length, width = x.shape
    size = width // heads
    for i in range(layers):
        layer = f"{prefix}.layers.{i}"
        y = norm(f"{layer}.self_attn_layer_norm", x)
        query, key, value = (linear(f"{layer}.self_attn.{n}_proj", y) for n in "qkv")
        mixed = np.zeros_like(x)
        for head in range(heads):
            at = slice(head * size, (head + 1) * size)
            for t in range(length):
                scores = key[: t + 1, at] @ query[t, at] / math.sqrt(size)
                exponentials = np.exp(scores - scores.max())
                mixed[t, at] = exponentials @ value[: t + 1, at] / exponentials.sum()
        x = x + linear(f"{layer}.self_attn.out_proj", mixed)
        y = norm(f"{layer}.final_layer_norm", x)
        x = x + linear(f"{layer}.fc2", gelu(linear(f"{layer}.fc1", y)))
    return norm(f"{prefix}.layer_norm", x)


def global_inputs(weights: Mapping[str, Array], src: Array) -> Array:
    """(n, d): scaled sums of the embeddings at each position, plus position embeddings."""
    table = weights[f"{GLOBAL}.embed_tokens.weight"]
    positions = weights[f"{GLOBAL}.embed_positions.weight"]
    scale = math.sqrt(table.shape[1])
    return np.stack(
        [
            scale * sum(table[x] for x in ids if x != PAD) + positions[t + 2]
            for t, ids in enumerate(src)
        ]
    )


def local_inputs(weights: Mapping[str, Array], hidden: Array, ids: Array) -> Array:
    """(D, d_l): local transformer input for the frame `ids` (D,) that `hidden` predicts."""
    table = weights[f"{LOCAL}.embed_tokens.weight"]
    positions = weights[f"{LOCAL}.embed_positions.weight"]
    projector = "decoder.global_local_projector"
    rows = [weights[f"{projector}.weight"] @ hidden + weights[f"{projector}.bias"]]
    rows += [math.sqrt(table.shape[1]) * table[x] for x in ids[:-1]]
    return np.stack([row + positions[q + 2] for q, row in enumerate(rows)])


def acoustic_logits(weights: Mapping[str, Array], shared: bool, hidden: Array) -> Array:
    """(D, classes) from local hidden states (D, d_l)."""
    head = weights[f"{LOCAL}.output_projection.weight"]
    if shared:
        return hidden @ head.T
    return np.stack([hidden[q] @ head[q] for q in range(len(head))])


def smoothed_loss(logits: Array, targets: Array, smoothing: float) -> tuple[float, float]:
    """Mean label-smoothed loss and mean nll in nats; logits (N, C), targets (N,)."""
    shifted = logits - logits.max(-1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    nll = -np.mean([row[target] for row, target in zip(log_probs, targets, strict=True)])
    return (1 - smoothing) * nll - smoothing * log_probs.mean(), nll


def pad(arrays: Sequence[Array]) -> Array:
    """Right-pads with the pad id (integers) or zeros to the longest, and stacks."""
    longest = max(len(a) for a in arrays)
    fill = PAD if arrays[0].dtype.kind == "i" else 0
    out = np.full((len(arrays), longest, *arrays[0].shape[1:]), fill, arrays[0].dtype)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    return out


def run(
    config: Mapping[str, float],
    weights: Mapping[str, Array],
    utterances: Sequence[tuple[Array, Array]],
) -> dict[str, Array]:
    """Inputs and outputs of a golden file.

    Args:
        config: scalars by their names in golden files.
        weights: arrays by their official names.
        utterances: raw (units (S,), codes (stored_depth, T)) of each item.

    Returns:
        Arrays by key, `inputs/...` and `outputs/...`; floats are float64.
    """
    weights = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    laid_out = [lay_out(config, units, codes) for units, codes in utterances]
    order = sorted(range(len(laid_out)), key=lambda i: -len(laid_out[i].labels))
    items = [laid_out[i] for i in order]
    depth, entries = int(config["depth"]), int(config["codec_dim"])

    embeds, hiddens = [], []
    semantic, acoustic, frame_embeds, frame_hiddens = [], [], [], []
    semantic_at, acoustic_at = [], []
    for row, item in enumerate(items):
        x = global_inputs(weights, item.src)
        hidden = transformer(
            weights, GLOBAL, int(config["global_layers"]), int(config["global_heads"]), x
        )
        embeds.append(x)
        hiddens.append(hidden)
        for t in range(len(item.labels)):
            semantic.append(weights[f"{GLOBAL}.output_projection.weight"] @ hidden[t])
            semantic_at.append((row, t))
        for j, ids in enumerate(item.frames):
            at = len(item.labels) + j
            y = local_inputs(weights, hidden[at], ids)
            out = transformer(
                weights, LOCAL, int(config["local_layers"]), int(config["local_heads"]), y
            )
            frame_embeds.append(y)
            frame_hiddens.append(out)
            acoustic.append(acoustic_logits(weights, bool(config["share_lm_head"]), out))
            acoustic_at.append((row, at, j))

    semantic_targets = np.concatenate([item.labels for item in items])
    frames = np.concatenate([item.frames for item in items])
    acoustic_targets = np.maximum(frames - entries * np.arange(depth), EOS)
    smoothing = float(config["label_smoothing"])
    semantic_loss, semantic_nll = smoothed_loss(np.array(semantic), semantic_targets, smoothing)
    acoustic_loss, acoustic_nll = smoothed_loss(
        np.concatenate(acoustic), acoustic_targets.ravel(), smoothing
    )
    out = {f"inputs/units_{i}": units for i, (units, _) in enumerate(utterances)}
    out |= {f"inputs/codes_{i}": codes for i, (_, codes) in enumerate(utterances)}
    return out | {
        "inputs/order": np.array(order),
        "inputs/src_tokens": pad([item.src for item in items]),
        "inputs/prev_output_tokens": pad([item.frames for item in items]),
        "inputs/src_labels": pad([item.labels for item in items]),
        "inputs/src_lengths": np.array([len(item.labels) for item in items]),
        "inputs/target_lengths": np.array([len(item.frames) for item in items]),
        "outputs/global_embeds": pad(embeds),
        "outputs/global_hidden": pad(hiddens),
        "outputs/local_embeds": np.stack(frame_embeds),
        "outputs/local_hidden": np.stack(frame_hiddens),
        "outputs/semantic_logits": np.stack(semantic),
        "outputs/semantic_positions": np.array(semantic_at),
        "outputs/semantic_targets": semantic_targets,
        "outputs/acoustic_logits": np.stack(acoustic),
        "outputs/acoustic_positions": np.array(acoustic_at),
        "outputs/acoustic_targets": acoustic_targets,
        "outputs/semantic_loss": np.array(semantic_loss),
        "outputs/acoustic_loss": np.array(acoustic_loss),
        "outputs/semantic_nll": np.array(semantic_nll),
        "outputs/acoustic_nll": np.array(acoustic_nll),
        "outputs/loss": np.array(semantic_loss + acoustic_loss),
        "outputs/nll_loss": np.array(semantic_nll + acoustic_nll),
    }
