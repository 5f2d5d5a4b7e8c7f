"""Imports Conformer weights by their official names."""

from collections.abc import Sequence

import numpy as np

from gpst_jax.parity.golden import Golden


def layers(golden: Golden, prefixes: Sequence[str], skips: Sequence[str] = ()) -> dict:
    """Parameters of consecutive blocks, with a leading layer axis.

    Args:
        golden: the file.
        prefixes: official name of each block.
        skips: official name of each block's skip projection; empty without skips.
    """
    blocks = [_block(golden, prefix) for prefix in prefixes]
    for block, skip in zip(blocks, skips, strict=False):
        block["skip"] = linear(golden, skip)
    return _stack(blocks)


def linear(golden: Golden, name: str, bias: bool = True) -> dict:
    """Kernel (in, out) and bias of a linear layer or a pointwise convolution."""
    weight = golden.weight(f"{name}.weight")
    kernel = {"kernel": weight.reshape(weight.shape[:2]).T}
    return kernel | ({"bias": golden.weight(f"{name}.bias")} if bias else {})


def norm(golden: Golden, name: str) -> dict:
    """Scale and bias of a norm."""
    return {"scale": golden.weight(f"{name}.weight"), "bias": golden.weight(f"{name}.bias")}


def _block(golden: Golden, prefix: str) -> dict:
    def feed_forward(name: str) -> dict:
        return {
            "up": linear(golden, f"{prefix}.{name}.fn.fn.net.0"),
            "down": linear(golden, f"{prefix}.{name}.fn.fn.net.3"),
        }

    key, value = np.split(golden.weight(f"{prefix}.attn.fn.to_kv.weight"), 2)
    gated = linear(golden, f"{prefix}.conv.net1.2")
    up, gate = ({} for _ in range(2))
    for name, both in gated.items():
        up[name], gate[name] = np.split(both, 2, axis=-1)
    return {
        "ff1_norm": norm(golden, f"{prefix}.ff1.fn.norm"),
        "ff1": feed_forward("ff1"),
        "attn_norm": norm(golden, f"{prefix}.attn.norm"),
        "attn": {
            "q": linear(golden, f"{prefix}.attn.fn.to_q", bias=False),
            "k": {"kernel": key.T},
            "v": {"kernel": value.T},
            "out": linear(golden, f"{prefix}.attn.fn.to_out"),
        },
        "conv_norm": norm(golden, f"{prefix}.conv.net1.0"),
        "conv": {
            "up": up,
            "gate": gate,
            "taps": golden.weight(f"{prefix}.conv.ds_conv.conv.weight")[:, 0].T,
            "taps_bias": golden.weight(f"{prefix}.conv.ds_conv.conv.bias"),
            "channel_scale": golden.weight(f"{prefix}.conv.net2.1.gamma")[0, :, 0],
            "down": linear(golden, f"{prefix}.conv.net2.2"),
        },
        "ff2_norm": norm(golden, f"{prefix}.ff2.fn.norm"),
        "ff2": feed_forward("ff2"),
        "post_norm": norm(golden, f"{prefix}.post_norm"),
    }


def _stack(trees: Sequence[dict]) -> dict:
    return {
        name: _stack([tree[name] for tree in trees])
        if isinstance(value, dict)
        else np.stack([tree[name] for tree in trees])
        for name, value in trees[0].items()
    }
