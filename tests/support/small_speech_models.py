"""Configurations of tiny speech models of transformers, and a signal for them."""

import numpy as np
import pytest

transformers = pytest.importorskip("transformers")

RATE = 16_000


def speech(seconds: float, seed: int, rate: int = RATE) -> np.ndarray:
    """A signal whose spectrum changes, so that its tokens do."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    sweep = np.sin(2 * np.pi * (200 + 900 * np.sin(2 * time + seed)) * time)
    envelope = 0.4 + 0.3 * np.sin(9 * time + seed)
    return (envelope * sweep + 0.1 * rng.standard_normal(len(time))).astype(np.float32)


def ssl_config(name: str):
    common = {
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    if name == "w2v-bert":
        return transformers.Wav2Vec2BertConfig(
            **common, feature_projection_input_dim=160, conv_depthwise_kernel_size=5
        )
    kind = transformers.Wav2Vec2Config if name == "wav2vec2" else transformers.HubertConfig
    stable = name != "hubert-group"
    return kind(
        **common,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        feat_extract_norm="layer" if stable else "group",
        do_stable_layer_norm=stable,
    )


def codec_config(name: str):
    if name == "encodec":
        return transformers.EncodecConfig(
            num_filters=4, hidden_size=16, codebook_dim=16, codebook_size=64,
            upsampling_ratios=[8, 5, 4, 2], target_bandwidths=[1.8, 3.6, 7.2],
        )  # fmt: skip
    if name == "dac":
        return transformers.DacConfig(
            encoder_hidden_size=4, decoder_hidden_size=64, hidden_size=64,
            downsampling_ratios=[2, 4, 5, 8], n_codebooks=6, codebook_size=32, codebook_dim=4,
            sampling_rate=24_000,
        )  # fmt: skip
    return transformers.MimiConfig(
        num_filters=4, hidden_size=32, codebook_size=32, codebook_dim=16, num_quantizers=6,
        vector_quantization_hidden_dimension=16, num_hidden_layers=2, intermediate_size=32,
        num_attention_heads=2, num_key_value_heads=2, head_dim=16, upsample_groups=32,
        sliding_window=10,
    )  # fmt: skip
