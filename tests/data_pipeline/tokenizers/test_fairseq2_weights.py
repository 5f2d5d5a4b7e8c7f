"""wav2vec 2.0 under fairseq2's names computes the same when transformers reads it."""

import json
import math

import numpy as np
import pytest

from data_pipeline.convert_weights import convert_weights
from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenizers import fairseq2_weights, load_semantic
from data_pipeline.tokenizers.pretrained import ModelSpec
from data_pipeline.tokenizers.semantic import speech_encoder

torch = pytest.importorskip("torch", reason="the extra codecs is not installed")
pytest.importorskip("transformers", reason="the extra codecs is not installed")

RATE = 16_000
KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
CHANNELS, WIDTH, INNER, LAYERS, HEADS, POSITIONS, GROUPS = 8, 16, 24, 4, 2, 6, 4


def weights() -> dict:
    """A random model of the layout of xlsr2_1b_v2, with what pretraining adds."""
    draw = torch.Generator().manual_seed(0)
    found = {}

    def add(name: str, *shape: int, scale: float = 1.0, around: float = 0.0):
        found[name] = around + scale * torch.randn(*shape, generator=draw)

    def norm(name: str, size: int):
        add(f"{name}.weight", size, scale=0.2, around=1.0)
        add(f"{name}.bias", size, scale=0.2)

    def linear(name: str, out: int, inside: int):
        add(f"{name}.weight", out, inside, scale=inside**-0.5)
        add(f"{name}.bias", out, scale=0.2)

    for number, kernel in enumerate(KERNELS):
        inside = CHANNELS if number else 1
        name = f"encoder_frontend.feature_extractor.layers.{number}"
        add(f"{name}.conv.weight", CHANNELS, inside, kernel, scale=(inside * kernel) ** -0.5)
        add(f"{name}.conv.bias", CHANNELS, scale=0.2)
        norm(f"{name}.layer_norm", CHANNELS)
    norm("encoder_frontend.post_extract_layer_norm", CHANNELS)
    linear("encoder_frontend.model_dim_proj", WIDTH, CHANNELS)
    add("encoder_frontend.pos_encoder.conv.weight_g", 1, 1, POSITIONS, around=1.0)
    add("encoder_frontend.pos_encoder.conv.weight_v", WIDTH, WIDTH // GROUPS, POSITIONS)
    add("encoder_frontend.pos_encoder.conv.bias", WIDTH, scale=0.2)
    for number in range(LAYERS):
        name = f"encoder.layers.{number}"
        norm(f"{name}.self_attn_layer_norm", WIDTH)
        for part in ("q_proj", "k_proj", "v_proj", "output_proj"):
            linear(f"{name}.self_attn.{part}", WIDTH, WIDTH)
        norm(f"{name}.ffn_layer_norm", WIDTH)
        linear(f"{name}.ffn.inner_proj", INNER, WIDTH)
        linear(f"{name}.ffn.output_proj", WIDTH, INNER)
    norm("encoder.layer_norm", WIDTH)
    add("masker.temporal_mask_embed", WIDTH)
    add("quantizer.entries", 1, 6, 4)
    linear("quantizer.entry_proj", 6, CHANNELS)
    found["quantizer.num_updates"] = torch.tensor(0)
    linear("final_proj", 4, WIDTH)
    linear("final_target_proj", 4, 4)
    return found


def hidden(found: dict, wav, layers: int):
    """The output of a layer by the equations of the paper and of fairseq2's configuration."""
    f = torch.nn.functional

    def norm(name, x):
        weight, bias = found[f"{name}.weight"], found[f"{name}.bias"]
        return f.layer_norm(x, (len(weight),), weight, bias, 1e-5)

    def linear(name, x):
        return x @ found[f"{name}.weight"].T + found[f"{name}.bias"]

    x = wav[None, None]
    for number, stride in enumerate(STRIDES):
        name = f"encoder_frontend.feature_extractor.layers.{number}"
        x = f.conv1d(x, found[f"{name}.conv.weight"], found[f"{name}.conv.bias"], stride)
        x = f.gelu(norm(f"{name}.layer_norm", x.transpose(1, 2))).transpose(1, 2)
    x = norm("encoder_frontend.post_extract_layer_norm", x.transpose(1, 2))
    x = linear("encoder_frontend.model_dim_proj", x)
    name = "encoder_frontend.pos_encoder.conv"
    direction = found[f"{name}.weight_v"]
    kernel = found[f"{name}.weight_g"] * direction / direction.norm(dim=(0, 1), keepdim=True)
    placed = f.conv1d(
        x.transpose(1, 2), kernel, found[f"{name}.bias"], padding=POSITIONS // 2, groups=GROUPS
    )
    x = x + f.gelu(placed[:, :, :-1]).transpose(1, 2)
    for number in range(layers):
        name = f"encoder.layers.{number}"
        y = norm(f"{name}.self_attn_layer_norm", x)
        q, k, v = (
            linear(f"{name}.self_attn.{part}_proj", y)
            .unflatten(-1, (HEADS, WIDTH // HEADS))
            .transpose(1, 2)
            for part in "qkv"
        )
        mixed = (q @ k.transpose(2, 3) / math.sqrt(WIDTH // HEADS)).softmax(-1) @ v
        x = x + linear(f"{name}.self_attn.output_proj", mixed.transpose(1, 2).flatten(2))
        y = norm(f"{name}.ffn_layer_norm", x)
        x = x + linear(f"{name}.ffn.output_proj", f.gelu(linear(f"{name}.ffn.inner_proj", y)))
    return x[0]


def fairseq(found: dict) -> dict:
    """The same weights under the names of fairseq."""
    renamed = {}
    for name, tensor in found.items():
        for new, old in (
            ("encoder_frontend.feature_extractor.layers.", "feature_extractor.conv_layers."),
            ("encoder_frontend.post_extract_layer_norm", "layer_norm"),
            ("encoder_frontend.model_dim_proj", "post_extract_proj"),
            ("encoder_frontend.pos_encoder.conv", "encoder.pos_conv.0"),
            ("self_attn.output_proj", "self_attn.out_proj"),
            ("ffn_layer_norm", "final_layer_norm"),
            ("ffn.inner_proj", "fc1"),
            ("ffn.output_proj", "fc2"),
            ("masker.temporal_mask_embed", "mask_emb"),
            ("quantizer.entries", "quantizer.vars"),
            ("quantizer.entry_proj", "quantizer.weight_proj"),
            ("final_target_proj", "project_q"),
        ):
            name = name.replace(new, old)
        if name.startswith("feature_extractor"):
            name = name.replace(".conv.", ".0.").replace(".layer_norm.", ".2.1.")
        renamed[name] = tensor
    return renamed


def parametrized(found: dict) -> dict:
    """The same weights as newer releases of torch name those of weight norm."""
    ends = {"weight_g": "original0", "weight_v": "original1"}
    return {
        next(
            (
                name.removesuffix(old) + f"parametrizations.weight.{new}"
                for old, new in ends.items()
                if name.endswith(old)
            ),
            name,
        ): tensor
        for name, tensor in found.items()
    }


def save(folder, found: dict, **settings):
    folder.mkdir()
    torch.save({"model": found, "fs2": True}, folder / "xlsr2_1b_v2.pt")
    if settings:
        (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("names", [dict, parametrized, fairseq])
def test_an_inner_layer_is_the_same(tmp_path, names):
    found = weights()
    model = save(tmp_path / "model", names(found), num_attention_heads=HEADS)
    result = convert_weights(model, tmp_path / "new")
    assert result["renamed"]
    wav = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    spec = ModelSpec.parse(f"wav2vec2:{tmp_path / 'new'}?layer=3", ("wav2vec2",))
    config = speech_encoder.describe(spec, tmp_path / "new")
    assert (config.normalize, config.hop, config.field, config.width) == (True, 320, 400, WIDTH)
    padded = np.zeros(12 * 320 + 400, np.float32)
    padded[:4000] = (wav - wav.mean()) / np.sqrt(wav.var() + 1e-7)
    (states,) = speech_encoder.SpeechEncoder(config, tmp_path / "new")([wav])
    expected = hidden(found, torch.from_numpy(padded), 3)
    assert states.shape == expected.shape == (13, WIDTH)
    assert float((states - expected).abs().max()) < 1e-5
    assert float((states - hidden(found, torch.from_numpy(padded), 2)).abs().max()) > 0.1


def test_units_of_the_converted_model(tmp_path):
    convert_weights(save(tmp_path / "model", weights(), num_attention_heads=HEADS), tmp_path / "x")
    clusters = np.random.default_rng(0).standard_normal((10, WIDTH)).astype(np.float32)
    np.save(tmp_path / "kmeans_10k.npy", clusters)
    name = f"wav2vec2:{tmp_path / 'x'}?layer=3&kmeans={tmp_path / 'kmeans_10k.npy'}"
    units = load_semantic(name).encode(np.random.default_rng(1).standard_normal(RATE), RATE)
    assert len(units) == 50
    assert len(set(units.tolist())) > 1


def test_settings_that_the_weights_tell(tmp_path):
    model = save(tmp_path / "model", weights(), num_attention_heads=HEADS, hidden_size=3)
    convert_weights(model, tmp_path / "new")
    config = json.loads((tmp_path / "new/config.json").read_text())
    assert config["model_type"] == "wav2vec2"
    assert (config["hidden_size"], config["num_hidden_layers"]) == (WIDTH, LAYERS)
    assert (config["intermediate_size"], config["conv_stride"]) == (INNER, list(STRIDES))
    assert config["num_conv_pos_embeddings"] == POSITIONS
    assert config["num_conv_pos_embedding_groups"] == GROUPS
    assert (config["do_stable_layer_norm"], config["conv_bias"]) == (True, True)


def without(*names):
    return lambda found: [found.pop(name) for name in names]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.update({"encoder.extra.weight": torch.zeros(1)}), "no parameter of"),
        (
            lambda found: found.update({"encoder_frontend.layer_norm.weight": torch.ones(WIDTH)}),
            "layer norm first",
        ),
        (
            lambda found: found.update(
                {"encoder_frontend.feature_extractor.layers.0.group_norm.weight": torch.ones(8)}
            ),
            "layer norm first",
        ),
        (without("encoder.layers.2.ffn_layer_norm.bias"), "final_layer_norm.bias is missing"),
        (without("encoder.layer_norm.weight"), "encoder.layer_norm.weight is missing"),
        (without("encoder_frontend.pos_encoder.conv.weight_v"), "lacks a part"),
        (
            lambda found: found.update({"encoder.layers.1.self_attn.q_proj.bias": torch.ones(3)}),
            r"q_proj.bias is \(3,\), the model needs \(16,\)",
        ),
    ],
)
def test_other_models_are_refused_by_name(tmp_path, change, message):
    found = weights()
    change(found)
    model = save(tmp_path / "model", found, num_attention_heads=HEADS)
    with pytest.raises(UserError, match=message):
        convert_weights(model, tmp_path / "new")
    assert not (tmp_path / "new/model.safetensors").exists()


def test_heads_that_nothing_tells_are_asked_for(tmp_path):
    with pytest.raises(UserError, match="num_attention_heads"):
        convert_weights(save(tmp_path / "model", weights()), tmp_path / "new")
    with pytest.raises(UserError, match="heads"):
        convert_weights(save(tmp_path / "odd", weights(), num_attention_heads=3), tmp_path / "new")


def test_the_published_size_needs_no_settings():
    """48 layers of width 1,280: shapes alone, no memory."""
    shapes = {
        "CHANNELS": 512,
        "WIDTH": 1280,
        "INNER": 5120,
        "LAYERS": 48,
        "POSITIONS": 128,
        "GROUPS": 16,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in shapes.items():
            patch.setitem(globals(), name, value)
        patch.setattr(torch, "randn", lambda *shape, **_: torch.empty(shape, device="meta"))
        found = weights()
    renamed, config, preprocessing = fairseq2_weights.translate(found, {}, "xlsr2_1b_v2")
    assert config["num_attention_heads"] == 16
    assert sum(tensor.numel() for tensor in renamed.values()) == pytest.approx(962e6, rel=0.01)
    assert preprocessing["do_normalize"]
