"""Writes the golden files of the tests: random weights and outputs of the NumPy reference.

    python tests/gpst_jax/parity/make_golden.py [--output=DIR]

`golden_gpst.npz` has one head per codebook, `golden_gpst_shared.npz` a shared head, de-duplicated
units, more stored than used codebooks, and three items. Floats are stored as float32.
"""

import argparse
import pathlib

import numpy as np
import numpy_gpst

FILES = {
    "golden_gpst.npz": {
        "seed": 1,
        "lengths": [(4, 6), (6, 9)],  # units and frames of each item
        "config": {
            "global_dim": 24,
            "global_layers": 2,
            "global_heads": 3,
            "global_ffn": 40,
            "local_dim": 12,
            "local_layers": 2,
            "local_heads": 2,
            "local_ffn": 20,
            "depth": 3,
            "codec_dim": 7,
            "source_vocab": 9,
            "share_lm_head": 0,
            "reduce": 0,
            "stored_depth": 3,
            "max_source_positions": 12,
            "max_target_positions": 14,
            "label_smoothing": 0.1,
        },
    },
    "golden_gpst_shared.npz": {
        "seed": 2,
        "lengths": [(9, 13), (14, 8), (5, 11)],
        "config": {
            "global_dim": 16,
            "global_layers": 3,
            "global_heads": 2,
            "global_ffn": 24,
            "local_dim": 20,
            "local_layers": 1,
            "local_heads": 5,
            "local_ffn": 28,
            "depth": 5,
            "codec_dim": 6,
            "source_vocab": 4,  # few, so that units repeat
            "share_lm_head": 1,
            "reduce": 1,
            "stored_depth": 7,
            "max_source_positions": 20,
            "max_target_positions": 20,
            "label_smoothing": 0.1,
        },
    },
}


def draw_weights(config: dict[str, float], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random weights by their official names, norm scales and biases included."""

    def normal(*shape: int, fan_in: int) -> np.ndarray:
        return (rng.normal(size=shape) * fan_in**-0.5).astype(np.float32)

    def table(rows: int, width: int, zero_rows: int) -> np.ndarray:
        out = normal(rows, width, fan_in=width)
        out[zero_rows] = 0
        return out

    weights: dict[str, np.ndarray] = {}

    def linear(name: str, fan_in: int, fan_out: int) -> None:
        weights[f"{name}.weight"] = normal(fan_out, fan_in, fan_in=fan_in)
        weights[f"{name}.bias"] = (0.1 * rng.normal(size=fan_out)).astype(np.float32)

    def norm(name: str, width: int) -> None:
        weights[f"{name}.weight"] = (1 + 0.2 * rng.normal(size=width)).astype(np.float32)
        weights[f"{name}.bias"] = (0.1 * rng.normal(size=width)).astype(np.float32)

    c = {name: int(value) for name, value in config.items()}
    semantic = numpy_gpst.SPECIALS + c["source_vocab"]
    acoustic = numpy_gpst.SPECIALS + c["depth"] * c["codec_dim"]
    classes = numpy_gpst.SPECIALS + c["codec_dim"]
    positions = c["max_source_positions"] + c["max_target_positions"] + 2
    for level, prefix, vocab, rows in (
        ("global", numpy_gpst.GLOBAL, semantic + acoustic, positions),
        ("local", numpy_gpst.LOCAL, acoustic, c["depth"]),
    ):
        width, inner = c[f"{level}_dim"], c[f"{level}_ffn"]
        weights[f"{prefix}.embed_tokens.weight"] = table(vocab, width, numpy_gpst.PAD)
        weights[f"{prefix}.embed_positions.weight"] = table(rows + 2, width, numpy_gpst.PAD)
        for i in range(c[f"{level}_layers"]):
            layer = f"{prefix}.layers.{i}"
            norm(f"{layer}.self_attn_layer_norm", width)
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                linear(f"{layer}.self_attn.{part}", width, width)
            norm(f"{layer}.final_layer_norm", width)
            linear(f"{layer}.fc1", width, inner)
            linear(f"{layer}.fc2", inner, width)
        norm(f"{prefix}.layer_norm", width)
    wide, narrow = c["global_dim"], c["local_dim"]
    linear("decoder.global_local_projector", wide, narrow)
    head = f"{numpy_gpst.GLOBAL}.output_projection.weight"
    weights[head] = normal(semantic, wide, fan_in=wide)
    shape = (classes, narrow) if c["share_lm_head"] else (c["depth"], narrow, classes)
    weights[f"{numpy_gpst.LOCAL}.output_projection.weight"] = normal(*shape, fan_in=narrow)
    return weights


def make(seed: int, lengths: list[tuple[int, int]], config: dict[str, float]) -> dict:
    """All entries of one golden file."""
    rng = np.random.default_rng(seed)
    weights = draw_weights(config, rng)
    items = [
        (
            rng.integers(config["source_vocab"], size=units),
            rng.integers(config["codec_dim"], size=(int(config["stored_depth"]), frames)),
        )
        for units, frames in lengths
    ]
    entries = {f"config/{name}": np.array(value) for name, value in config.items()}
    entries |= {f"weights/{name}": value for name, value in weights.items()}
    entries |= numpy_gpst.run(config, weights, items)
    return {
        name: value.astype(np.float32) if value.dtype.kind == "f" else value.astype(np.int64)
        for name, value in entries.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = pathlib.Path(__file__).parents[2] / "data"
    parser.add_argument("--output", type=pathlib.Path, default=default, help="Directory.")
    output = parser.parse_args().output
    for name, recipe in FILES.items():
        np.savez_compressed(output / name, **make(**recipe))


if __name__ == "__main__":
    main()
