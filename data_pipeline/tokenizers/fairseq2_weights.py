"""wav2vec 2.0 weights under the names of fairseq2 or fairseq, for transformers' Wav2Vec2Model.

The models are those whose convolutions and transformer layers begin with layer norm: XLS-R, and
`xlsr2_1b_v2` of SeamlessM4T's unit extraction. The same computation has other names only, so that
tensors are renamed and never changed; the quantizer and projections of pretraining are left out.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenizers import torch_runtime

# Of all published wav2vec 2.0 models: their weights do not say the strides.
_STRIDES: Mapping[tuple[int, ...], tuple[int, ...]] = {
    (10, 3, 3, 3, 3, 2, 2): (5, 2, 2, 2, 2, 2, 2)
}
# Nor do they say the number of heads: of the published sizes, by width.
_HEADS = {768: 12, 1024: 16, 1280: 16, 1920: 16}
_EPSILON = 1e-5  # of fairseq's and fairseq2's layer norms

_LAYERS = {
    "self_attn_layer_norm": "layer_norm",
    "self_attn.q_proj": "attention.q_proj",
    "self_attn.k_proj": "attention.k_proj",
    "self_attn.v_proj": "attention.v_proj",
}
_FAIRSEQ2_LAYERS = _LAYERS | {
    "self_attn.output_proj": "attention.out_proj",
    "ffn_layer_norm": "final_layer_norm",
    "ffn.inner_proj": "feed_forward.intermediate_dense",
    "ffn.output_proj": "feed_forward.output_dense",
}
_FAIRSEQ_LAYERS = _LAYERS | {
    "self_attn.out_proj": "attention.out_proj",
    "final_layer_norm": "final_layer_norm",
    "fc1": "feed_forward.intermediate_dense",
    "fc2": "feed_forward.output_dense",
}
_FAIRSEQ2 = {
    "encoder_frontend.post_extract_layer_norm": "feature_projection.layer_norm",
    "encoder_frontend.model_dim_proj": "feature_projection.projection",
    "encoder_frontend.pos_encoder.conv": "encoder.pos_conv_embed.conv",
    "encoder.layer_norm": "encoder.layer_norm",
}
_FAIRSEQ = {
    "layer_norm": "feature_projection.layer_norm",
    "post_extract_proj": "feature_projection.projection",
    "encoder.pos_conv.0": "encoder.pos_conv_embed.conv",
    "encoder.layer_norm": "encoder.layer_norm",
}
_FAIRSEQ2_CONVOLUTION = re.compile(r"encoder_frontend\.feature_extractor\.layers\.(\d+)\.(.+)")
_FAIRSEQ_CONVOLUTION = re.compile(r"feature_extractor\.conv_layers\.(\d+)\.(.+)")
_CONVOLUTION = {"conv": "conv", "layer_norm": "layer_norm", "0": "conv", "2.1": "layer_norm"}
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)")
# Weight norm by its old names and by its new ones.
_PARAMETERS = {
    "weight": "weight",
    "bias": "bias",
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
    "parametrizations.weight.original0": "parametrizations.weight.original0",
    "parametrizations.weight.original1": "parametrizations.weight.original1",
}
# Needed for pretraining alone.
_LEFT_OUT = ("quantizer.", "final_proj.", "final_target_proj.", "project_q.", "masker.", "mask_emb")


def is_foreign(names: Iterable[str]) -> bool:
    """Whether these are the names of a wav2vec 2.0 model of fairseq2 or fairseq."""
    return bool({"encoder_frontend.model_dim_proj.weight", "post_extract_proj.weight"} & {*names})


def translate(
    tensors: Mapping[str, Any], settings: Mapping[str, Any], where: str
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The weights under transformers' names, and what belongs beside them.

    Args:
        tensors: the weights by their names.
        settings: of a `config.json` beside them, if there is one: `num_attention_heads` and
            `conv_stride` are read, which weights of other sizes than the published do not tell.
        where: for messages.

    Returns:
        The tensors by transformers' names, `config.json` and `preprocessor_config.json`.

    Raises:
        UserError: a name is not known, or the weights are not those of such a model.
    """
    fairseq2 = "encoder_frontend.model_dim_proj.weight" in tensors
    renamed: dict[str, Any] = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("module.")
        if name.startswith(_LEFT_OUT):
            continue
        new = _translate(name, fairseq2)
        if new is None:
            raise UserError(
                f"{where}: {name!r} is no parameter of a wav2vec 2.0 model with layer norm first "
                "(XLS-R, xlsr2_1b_v2), the only ones whose names are translated"
            )
        renamed[new] = tensor
    config = _config(renamed, settings, where)
    _require_complete(renamed, config, where)
    preprocessing = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "do_normalize": True,
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
        "sampling_rate": 16_000,
    }
    return renamed, config, preprocessing


def _translate(name: str, fairseq2: bool) -> str | None:
    """A parameter's name in transformers, None if it is not known."""
    module, parameter = _split(name)
    if parameter is None:
        return None
    modules = _FAIRSEQ2 if fairseq2 else _FAIRSEQ
    if module in modules:
        return f"{modules[module]}.{parameter}"
    if found := (_FAIRSEQ2_CONVOLUTION if fairseq2 else _FAIRSEQ_CONVOLUTION).fullmatch(module):
        part = _CONVOLUTION.get(found[2])
        return part and f"feature_extractor.conv_layers.{found[1]}.{part}.{parameter}"
    if found := _LAYER.fullmatch(module):
        part = (_FAIRSEQ2_LAYERS if fairseq2 else _FAIRSEQ_LAYERS).get(found[2])
        return part and f"encoder.layers.{found[1]}.{part}.{parameter}"
    return None


def _split(name: str) -> tuple[str, str | None]:
    """The module of a parameter, and what it is called there in transformers."""
    for suffix, ours in _PARAMETERS.items():
        if name.endswith(f".{suffix}") and "parametrizations" not in name.removesuffix(suffix):
            return name.removesuffix(f".{suffix}"), ours
    return name, None


def _config(tensors: Mapping[str, Any], settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The model's config.json: what its weights say, and what is given or published."""
    try:
        convolutions = _stack(tensors, "feature_extractor.conv_layers", "conv.weight")
        layers = _stack(tensors, "encoder.layers", "feed_forward.intermediate_dense.weight")
        width = tensors["feature_projection.projection.weight"].shape[0]
        position = tensors["encoder.pos_conv_embed.conv.parametrizations.weight.original1"]
    except KeyError as error:
        raise UserError(f"{where} lacks a part of the model: {error}") from error
    if not convolutions or not layers:
        raise UserError(f"{where} lacks a part of the model: convolutions or layers")
    kernels = tuple(int(weight.shape[2]) for weight in convolutions)
    strides = settings.get("conv_stride") or _STRIDES.get(kernels)
    heads = settings.get("num_attention_heads") or _HEADS.get(width)
    if not strides or not heads:
        raise UserError(
            f"{where}: kernels {kernels} and width {width} are of no published model: say "
            '{"conv_stride": [...], "num_attention_heads": N} in a config.json beside the weights'
        )
    return {
        "model_type": "wav2vec2",
        "architectures": ["Wav2Vec2Model"],
        "hidden_size": width,
        "num_hidden_layers": len(layers),
        "num_attention_heads": heads,
        "intermediate_size": int(layers[0].shape[0]),
        "conv_dim": [int(weight.shape[0]) for weight in convolutions],
        "conv_kernel": list(kernels),
        "conv_stride": list(strides),
        "conv_bias": "feature_extractor.conv_layers.0.conv.bias" in tensors,
        "num_feat_extract_layers": len(convolutions),
        "num_conv_pos_embeddings": int(position.shape[2]),
        "num_conv_pos_embedding_groups": width // int(position.shape[1]),
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "layer_norm_eps": _EPSILON,
        "hidden_act": "gelu",
        "feat_extract_activation": "gelu",
        # Without masking in training there is no embedding of masked frames.
        "mask_time_prob": 0.0,
        "mask_feature_prob": 0.0,
    }


def _stack(tensors: Mapping[str, Any], modules: str, parameter: str) -> list[Any]:
    """A parameter of all modules of a list."""
    found: list[Any] = []
    while (name := f"{modules}.{len(found)}.{parameter}") in tensors:
        found.append(tensors[name])
    return found


def _require_complete(tensors: Mapping[str, Any], config: Mapping[str, Any], where: str) -> None:
    """Raises UserError unless these are all the weights of the model, in its shapes."""
    torch, transformers = torch_runtime.import_torch(), torch_runtime.import_transformers()
    try:
        with torch.device("meta"):
            model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**config))
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise UserError(f"{where} is not a wav2vec 2.0 model: {error}") from error
    needed = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(needed.keys() | tensors.keys()):
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != needed.get(name):
            raise UserError(
                f"{where}: {name} is {found or 'missing'}, the model needs {needed.get(name)}"
            )
