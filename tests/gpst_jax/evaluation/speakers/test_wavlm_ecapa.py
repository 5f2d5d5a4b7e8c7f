"""The layout of `wavlm_large_finetune.pth`, on a small random file in the names of its code."""

import re

import numpy as np
import pytest

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.metrics import registry, speaker
from gpst_jax.evaluation.speakers import wavlm_ecapa

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = {
    **wavlm_ecapa.LARGE,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (8, 8, 8),
    "conv_stride": (5, 8, 8),
    "conv_kernel": (10, 8, 8),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
SIZES = {"channels": 16, "joined": 24, "size": 10}

# transformers' names of parts, and those of the original code of WavLM.
ORIGINAL = (
    (r"^feature_extractor\.conv_layers\.(\d+)\.conv\.", r"feature_extractor.conv_layers.\1.0."),
    (
        r"^feature_extractor\.conv_layers\.(\d+)\.layer_norm\.",
        r"feature_extractor.conv_layers.\1.2.1.",
    ),
    (r"^feature_projection\.projection\.", "post_extract_proj."),
    (r"^feature_projection\.layer_norm\.", "layer_norm."),
    (
        r"^encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original0$",
        "encoder.pos_conv.0.weight_g",
    ),
    (
        r"^encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original1$",
        "encoder.pos_conv.0.weight_v",
    ),
    (r"^encoder\.pos_conv_embed\.conv\.bias$", "encoder.pos_conv.0.bias"),
    (r"\.attention\.gru_rel_pos_linear\.", ".self_attn.grep_linear."),
    (r"\.attention\.gru_rel_pos_const$", ".self_attn.grep_a"),
    (r"\.attention\.rel_attn_embed\.", ".self_attn.relative_attention_bias."),
    (r"\.attention\.", ".self_attn."),
    (r"^(encoder\.layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm."),
    (r"\.feed_forward\.intermediate_dense\.", ".fc1."),
    (r"\.feed_forward\.output_dense\.", ".fc2."),
)


def original_name(name):
    for pattern, replacement in ORIGINAL:
        if re.search(pattern, name):
            return re.sub(pattern, replacement, name)
    return name


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """(file, network of WavLM, tensors by name) of a small random model."""
    from gpst_jax.evaluation.speakers.ecapa_head import Head

    torch.manual_seed(0)
    wavlm = transformers.WavLMModel(transformers.WavLMConfig(**SMALL)).eval()
    head = Head(16, 4, **SIZES)
    for value in head.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.1, 0.9)
    tensors = {
        f"feature_extract.model.{original_name(name)}": value
        for name, value in wavlm.state_dict().items()
        if name != "masked_spec_embed"
    }
    tensors |= head.state_dict()
    tensors["feature_extract.model.mask_emb"] = torch.zeros(16)
    tensors["loss_calculator.projection.weight"] = torch.zeros(3, 10)
    path = tmp_path_factory.mktemp("sv") / wavlm_ecapa.FILE
    torch.save({"model": tensors}, path)
    return path, wavlm, tensors


def _batch_norm(x, tensors, name):
    mean, variance = tensors[f"{name}.running_mean"], tensors[f"{name}.running_var"]
    shape = (1, -1) + (1,) * (x.ndim - 2)
    scaled = (x - mean.view(shape)) / torch.sqrt(variance.view(shape) + 1e-5)
    return scaled * tensors[f"{name}.weight"].view(shape) + tensors[f"{name}.bias"].view(shape)


def _convolve(x, tensors, name, **options):
    made = torch.nn.functional.conv1d(
        x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], **options
    )
    return made


def _layer(x, tensors, name, **options):
    return _batch_norm(
        _convolve(x, tensors, f"{name}.conv", **options).relu(), tensors, f"{name}.bn"
    )


def embedding_by_hand(states, tensors):
    """The head's arithmetic from its published description, operation by operation."""
    weights = torch.softmax(tensors["feature_weight"], 0)
    x = sum(w * state for w, state in zip(weights, states, strict=True)).transpose(1, 2) + 1e-6
    x = (x - x.mean(2, keepdim=True)) / torch.sqrt(x.var(2, keepdim=True, unbiased=False) + 1e-5)
    x = _layer(x, tensors, "layer1", padding=2)
    kept = []
    for number, dilation in ((2, 2), (3, 3), (4, 4)):
        name = f"layer{number}"
        inner = _layer(x, tensors, f"{name}.Conv1dReluBn1")
        parts, done = torch.split(inner, inner.shape[1] // 8, 1), []
        for i in range(7):
            part = parts[i] if i == 0 else done[-1] + parts[i]
            where = f"{name}.Res2Conv1dReluBn"
            part = _convolve(
                part, tensors, f"{where}.convs.{i}", padding=dilation, dilation=dilation
            )
            done.append(_batch_norm(part.relu(), tensors, f"{where}.bns.{i}"))
        inner = _layer(torch.cat([*done, parts[7]], 1), tensors, f"{name}.Conv1dReluBn2")
        squeezed = inner.mean(2) @ tensors[f"{name}.SE_Connect.linear1.weight"].T
        squeezed = (squeezed + tensors[f"{name}.SE_Connect.linear1.bias"]).relu()
        gate = squeezed @ tensors[f"{name}.SE_Connect.linear2.weight"].T
        gate = torch.sigmoid(gate + tensors[f"{name}.SE_Connect.linear2.bias"])
        x = x + inner * gate[:, :, None]
        kept.append(x)
    x = _convolve(torch.cat(kept, 1), tensors, "conv").relu()
    attention = torch.tanh(_convolve(x, tensors, "pooling.linear1"))
    attention = torch.softmax(_convolve(attention, tensors, "pooling.linear2"), 2)
    mean = (attention * x).sum(2)
    deviation = torch.sqrt(((attention * x * x).sum(2) - mean * mean).clamp(min=1e-9))
    pooled = _batch_norm(torch.cat([mean, deviation], 1), tensors, "bn")
    made = pooled @ tensors["linear.weight"].T + tensors["linear.bias"]
    return torch.nn.functional.normalize(made[0], dim=0)


def test_the_file_is_read_as_it_is_laid_out(checkpoint):
    path, wavlm, tensors = checkpoint
    embed = wavlm_ecapa.load_file(path, SMALL, **SIZES)
    wav = (0.1 * np.random.default_rng(0).standard_normal(16000) + 0.3).astype(np.float32)
    vector = embed(wav)
    assert len(vector) == 10
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    signal = torch.from_numpy((wav - wav.mean()) / np.sqrt(wav.var() + 1e-5))[None]
    with torch.inference_mode():
        found = wavlm(signal, output_hidden_states=True)
        states = [*found.hidden_states[:3], found.last_hidden_state]
        expected = embedding_by_hand(states, tensors)
    np.testing.assert_allclose(vector, expected.numpy(), atol=2e-5)
    assert speaker.cosine(vector, embed(wav)) == pytest.approx(1, abs=1e-6)
    assert speaker.cosine(vector, embed(3 * wav)) == pytest.approx(1, abs=1e-3)  # normalised


def test_names_of_the_published_model_are_all_known():
    config = transformers.WavLMConfig(**wavlm_ecapa.LARGE)
    with torch.device("meta"):
        wavlm = transformers.WavLMModel(config)
    names = set(wavlm.state_dict()) - {"masked_spec_embed"}
    assert {wavlm_ecapa.renamed(original_name(name)) for name in names} == names
    assert all(original_name(name) != name for name in names if ".attention." in name)
    # WavLM large has 316.6 million parameters (arXiv 2110.13900, table 1).
    assert round(sum(p.numel() for p in wavlm.parameters()) / 1e6, 1) == pytest.approx(315.5, abs=2)


def test_another_file_is_one_line(tmp_path, checkpoint, monkeypatch):
    path, _, tensors = checkpoint
    other = tmp_path / wavlm_ecapa.FILE
    torch.save({"model": {k: v for k, v in tensors.items() if k != "linear.bias"}}, other)
    with pytest.raises(UserError, match=r"1 tensors do not fit: linear\.bias is missing"):
        wavlm_ecapa.load_file(other, SMALL, **SIZES)
    torch.save({"weights": 1}, other)
    with pytest.raises(UserError, match="no entry 'model'"):
        wavlm_ecapa.load_file(other, SMALL, **SIZES)
    torch.save({"model": _Object()}, other)  # an object, which only unpickling could read
    with pytest.raises(UserError, match="not a file of tensors"):
        wavlm_ecapa.load_file(other, SMALL, **SIZES)
    monkeypatch.setenv(wavlm_ecapa.VARIABLE, str(tmp_path / "none"))
    recipe = registry.get_recipe("sim-o/wavlm-large-ecapa")
    with pytest.raises(UserError, match=r"GPST_WAVLM_LARGE_SV") as error:
        recipe.measurement.check()
    assert "\n" not in str(error.value)
    assert recipe.describe()["weights"] is None
    monkeypatch.setenv(wavlm_ecapa.VARIABLE, str(path.parent))
    assert len(recipe.describe()["weights_sha256"]) == 64


class _Object:
    pass
