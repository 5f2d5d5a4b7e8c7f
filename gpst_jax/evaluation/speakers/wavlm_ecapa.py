"""WavLM large (arXiv 2110.13900) under an ECAPA-TDNN head (arXiv 2005.07143), of UniSpeech.

It is the speaker encoder of seed-tts-eval (arXiv 2406.02430): `wavlm_large_finetune.pth` of
microsoft/UniSpeech, downstreams/speaker_verification, which holds the fine-tuned WavLM in the
names of its original code and the head. The file is read as tensors only (`weights_only=True`);
the network of WavLM is that of transformers. Nothing is downloaded: `GPST_WAVLM_LARGE_SV` names
the file or its directory.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.runtime.errors import UserError
from gpst_jax.evaluation.metrics import hf_models

VARIABLE = "GPST_WAVLM_LARGE_SV"
FILE = "wavlm_large_finetune.pth"
_WAVLM = "feature_extract.model."

# The published model; tests take smaller ones.
LARGE: Mapping[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "layerdrop": 0.0,
    "apply_spec_augment": False,
}

# A name in the original code of WavLM, and in transformers; the first pattern that fits counts.
_NAMES = (
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (
        r"feature_extractor\.conv_layers\.(\d+)\.2\.1\.",
        r"feature_extractor.conv_layers.\1.layer_norm.",
    ),
    (r"post_extract_proj\.", "feature_projection.projection."),
    (r"layer_norm\.", "feature_projection.layer_norm."),
    (
        r"encoder\.pos_conv\.0\.weight_g$",
        "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    ),
    (
        r"encoder\.pos_conv\.0\.weight_v$",
        "encoder.pos_conv_embed.conv.parametrizations.weight.original1",
    ),
    (r"encoder\.pos_conv\.0\.bias$", "encoder.pos_conv_embed.conv.bias"),
    (
        r"encoder\.layers\.(\d+)\.self_attn\.grep_linear\.",
        r"encoder.layers.\1.attention.gru_rel_pos_linear.",
    ),
    (
        r"encoder\.layers\.(\d+)\.self_attn\.grep_a$",
        r"encoder.layers.\1.attention.gru_rel_pos_const",
    ),
    (
        r"encoder\.layers\.(\d+)\.self_attn\.relative_attention_bias\.",
        r"encoder.layers.\1.attention.rel_attn_embed.",
    ),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"encoder.layers.\1.layer_norm."),
    (r"encoder\.layers\.(\d+)\.self_attn\.", r"encoder.layers.\1.attention."),
    (r"encoder\.layers\.(\d+)\.fc1\.", r"encoder.layers.\1.feed_forward.intermediate_dense."),
    (r"encoder\.layers\.(\d+)\.fc2\.", r"encoder.layers.\1.feed_forward.output_dense."),
)
# Of training alone.
_UNUSED = re.compile(r"(feature_extract\.model\.mask_emb|loss_calculator\..*)$")

# Of training too: the mask, and counters that older files lack.
_SPARED = ("masked_spec_embed", "num_batches_tracked")


def weights_file(download: bool = False) -> Path:
    """The file that `GPST_WAVLM_LARGE_SV` names; raises UserError where there is none."""
    del download  # no repository of the hub has it
    remedy = f"{FILE} of microsoft/UniSpeech (downstreams/speaker_verification)"
    return hf_models.local_file(VARIABLE, FILE, remedy, "", False)


def load() -> Callable[[np.ndarray], list[float]]:
    """The published encoder: wav (N,) float32 at 16 kHz -> unit-norm embedding (256,)."""
    return load_file(weights_file(), LARGE)


def load_file(
    path: Path, wavlm: Mapping[str, Any], channels: int = 512, joined: int = 1536, size: int = 256
) -> Callable[[np.ndarray], list[float]]:
    """An encoder out of a checkpoint of UniSpeech.

    Args:
        path: the checkpoint, whose entry `model` maps names to tensors.
        wavlm: settings of transformers' `WavLMConfig`.
        channels: of the layers of the head.
        joined: channels before the pooling.
        size: of the embedding.

    Raises:
        UserError: the file is none of that layout, or holds more than tensors.
    """
    import torch
    from transformers import WavLMConfig, WavLMModel

    from gpst_jax.evaluation.speakers.ecapa_head import Head

    torch.set_num_threads(1)
    named = read_checkpoint(path)
    config = WavLMConfig(**wavlm)
    encoder = WavLMModel(config)
    head = Head(config.hidden_size, config.num_hidden_layers + 1, channels, joined, size)
    used = {name: tensor for name, tensor in named.items() if not _UNUSED.match(name)}
    of_wavlm = {
        renamed(name.removeprefix(_WAVLM)): tensor
        for name, tensor in used.items()
        if name.startswith(_WAVLM)
    }
    _fill(encoder, of_wavlm, path)
    _fill(head, {n: t for n, t in used.items() if not n.startswith(_WAVLM)}, path)
    encoder.eval()
    head.eval()

    def embed(wav: np.ndarray) -> list[float]:
        signal = torch.from_numpy(np.ascontiguousarray(wav, np.float32))[None]
        # The front end normalises each clip as a layer norm does, before WavLM sees it.
        signal = torch.nn.functional.layer_norm(signal, signal.shape[1:])
        with torch.inference_mode():
            vector = head(hidden_states(encoder, signal))[0]
        return torch.nn.functional.normalize(vector, dim=0).tolist()

    return embed


def hidden_states(encoder: Any, signal: Any) -> Any:
    """What goes into each layer of WavLM, and what leaves the last: (layers + 1, 1, T, D).

    Read by hooks: that is what the front end of the published head sums, whatever a version of
    transformers calls hidden states.
    """
    import torch

    seen: list[Any] = []
    hooks = [
        layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        for layer in encoder.encoder.layers
    ]
    try:
        last = encoder(signal).last_hidden_state
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([*seen, last])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The tensors by name of a checkpoint's entry `model`, read without unpickling objects."""
    import pickle

    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: not a file of tensors ({reason}); download it again") from error
    named = found.get("model") if isinstance(found, dict) else None
    if not isinstance(named, dict):
        raise UserError(f"{path}: has no entry 'model' with tensors; {FILE} of UniSpeech has")
    return named


def renamed(name: str) -> str:
    """A name in the original code of WavLM as transformers has it."""
    for pattern, replacement in _NAMES:
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name, count=1)
    return name


def _fill(network: Any, tensors: dict[str, Any], path: Path) -> None:
    """Puts tensors into a network; raises UserError unless they are just those that it has."""
    have = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    got = {name: tuple(t.shape) for name, t in tensors.items()}
    faults = [
        f"{name} is missing" for name in have if name not in got and not name.endswith(_SPARED)
    ]
    faults += [f"{name} is unknown" for name in got if name not in have]
    faults += [
        f"{name} has shape {got[name]}, not {have[name]}"
        for name in have
        if name in got and got[name] != have[name]
    ]
    if faults:
        raise UserError(f"{path}: {len(faults)} tensors do not fit: {faults[0]}; it is not {FILE}")
    network.load_state_dict(tensors, strict=False)
