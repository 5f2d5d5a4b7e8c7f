"""The peer: `CsmForConditionalGeneration` of Hugging Face transformers, trained in torch.

CSM is the closest maintained architecture: a backbone over text and frames, and a depth decoder
over the codebooks of each frame. Dimensions, codebooks, batch size and lengths are those of the
workload, weights are random; remaining differences are listed in docs/benchmarks.md.
"""

import contextlib
import dataclasses
import os
from typing import Any

import numpy as np

from data_pipeline.runtime.errors import UserError
from gpst_jax.benchmarks.workload import Workload
from gpst_jax.config import GPSTConfig


@dataclasses.dataclass(frozen=True)
class Dimensions:
    """Dimensions of one of CSM's transformers."""

    hidden: int
    inner: int
    layers: int
    heads: int


def dimensions(workload: Workload) -> tuple[Dimensions, Dimensions]:
    """Backbone and depth decoder.

    CSM's feed-forward is gated. Compared with our ungated `paper` block, its inner width is two
    thirds (rounded to a multiple of 8), so that the parameter counts per layer match.
    """
    model = workload.config.model_as(GPSTConfig)

    def one(net) -> Dimensions:
        inner = net.d_ff if model.block == "modern" else round(net.d_ff / 12) * 8
        return Dimensions(net.d_model, inner, net.num_layers, net.num_heads)

    return one(model.global_net), one(model.local_net)


def flops(workload: Workload) -> float:
    """Training FLOPs of a step of CSM, by the rule of `GPSTObjective.flops`."""
    wide, narrow = dimensions(workload)
    depth, classes = workload.layout.num_codebooks, workload.layout.acoustic_classes
    length, frames = length_of(workload), workload.frames + 1

    def weights(net: Dimensions) -> float:
        return net.layers * (4 * net.hidden**2 + 3 * net.hidden * net.inner)

    per_row = length * (weights(wide) + wide.hidden * classes)
    per_row += length**2 * wide.hidden * wide.layers
    per_row += frames * depth * (weights(narrow) + wide.hidden * narrow.hidden)
    per_row += frames * depth**2 * narrow.hidden * narrow.layers
    per_row += frames * (depth - 1) * narrow.hidden * classes
    return 6.0 * workload.rows * per_row


def length_of(workload: Workload) -> int:
    """Positions of a row: ours, and CSM's end frame, which is also an input."""
    return workload.units + workload.frames + 3


def build_model(workload: Workload) -> Any:
    """The model without its codec, in float32, randomly initialised; nothing is downloaded.

    Raises:
        UserError: torch or transformers is not installed.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        from transformers import CsmConfig, CsmForConditionalGeneration
        from transformers.utils import logging
    except ImportError as error:
        raise UserError(
            f"the torch peer needs {error.name}: pip install 'gpst_jax[codecs]'"
        ) from error
    logging.set_verbosity_error()
    wide, narrow = dimensions(workload)
    layout = workload.layout
    common: dict[str, Any] = {
        "num_codebooks": layout.num_codebooks,
        "vocab_size": layout.acoustic_classes,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    kernels: dict[str, Any] = {
        "attn_implementation": "sdpa"
    }  # passed as **kwargs, the signature lacks it
    config = CsmConfig(
        **common,
        hidden_size=wide.hidden,
        intermediate_size=wide.inner,
        num_hidden_layers=wide.layers,
        num_attention_heads=wide.heads,
        num_key_value_heads=wide.heads,
        max_position_embeddings=length_of(workload),
        text_vocab_size=layout.semantic_vocab,
        codebook_pad_token_id=None,
        audio_token_id=None,
        audio_eos_token_id=None,
        tie_codebooks_embeddings=False,  # ours has separate global and local tables
        use_cache=False,
        **kernels,
        depth_decoder_config={
            **common,
            "backbone_hidden_size": wide.hidden,
            "hidden_size": narrow.hidden,
            "intermediate_size": narrow.inner,
            "num_hidden_layers": narrow.layers,
            "num_attention_heads": narrow.heads,
            "num_key_value_heads": narrow.heads,
            "max_position_embeddings": layout.num_codebooks + 1,
            "use_cache": False,
        },
        # The codec is not trained: a tiny one is built and dropped.
        codec_config={
            "model_type": "mimi",
            "hidden_size": 16,
            "num_filters": 2,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "intermediate_size": 16,
            "codebook_size": 8,
            "codebook_dim": 8,
            "vector_quantization_hidden_dimension": 8,
            "upsample_groups": 1,
        },
    )
    model = CsmForConditionalGeneration(config)
    del model.codec_model
    return model


def inputs(workload: Workload) -> dict[str, np.ndarray]:
    """`text` (B, U + 2), `codes` (B, T + 1, Q) and `labels` (B, L, Q), all int64.

    The text ids are the units between two start symbols; the last frame marks the end of speech.
    Labels are -100 (ignored) on text.
    """
    layout = workload.layout
    units, codes = workload.tokens()
    semantic = layout.units_to_ids(units)
    ends = np.full((len(units), 1), 2)
    frames = np.pad(codes.transpose(0, 2, 1) + 4, ((0, 0), (0, 1), (0, 0)), constant_values=2)
    text = np.concatenate([ends, semantic, ends], axis=1)
    none = np.full((*text.shape, layout.num_codebooks), -100)
    labels = np.concatenate([none, frames], axis=1)
    return {
        name: a.astype(np.int64)
        for name, a in {"text": text, "codes": frames, "labels": labels}.items()
    }


class CsmStep:
    """One training step of CSM: forward, backward, gradient clipping, AdamW.

    Args:
        workload: dimensions, batch, threads and dtype (bfloat16: under autocast).
        compiled: whether to use `torch.compile`.
    """

    def __init__(self, workload: Workload, *, compiled: bool):
        try:
            import torch
        except ImportError as error:
            raise UserError("the torch peer needs torch: pip install 'gpst_jax[codecs]'") from error
        self._torch, self._workload = torch, workload
        if workload.threads:
            torch.set_num_threads(workload.threads)
        torch.manual_seed(0)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self._device.type == "cuda":
            torch.set_float32_matmul_precision("high")
            torch.cuda.reset_peak_memory_stats()
        self.model = build_model(workload).to(self._device).train()
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        settings = workload.config.optimizer
        self._clip = settings.clip_norm
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self._batch = {
            name: torch.from_numpy(value).to(self._device)
            for name, value in inputs(workload).items()
        }
        # Shapes are static; dynamic ones would only slow the compiled program.
        self._loss = torch.compile(self._forward, dynamic=False) if compiled else self._forward

    def _forward(self, text: Any, codes: Any, labels: Any) -> Any:
        torch, model = self._torch, self.model
        embeds = [model.embed_text_tokens(text), model.backbone_model.embed_tokens(codes)]
        return model(inputs_embeds=torch.cat(embeds, dim=1), labels=labels).loss

    def __call__(self) -> float:
        """Runs one step, waits for it, and returns the loss."""
        torch = self._torch
        cast: Any = contextlib.nullcontext()
        if self._workload.config.model_as(GPSTConfig).dtype == "bfloat16":
            cast = torch.autocast(self._device.type, torch.bfloat16)
        self._optimizer.zero_grad(set_to_none=True)
        with cast:
            loss = self._loss(**self._batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._clip)
        self._optimizer.step()
        return float(loss.detach())  # waits for the device

    def peak_bytes(self) -> int | None:
        """Peak GPU memory; None on a CPU."""
        cuda = self._device.type == "cuda"
        return self._torch.cuda.max_memory_allocated() if cuda else None


def has_cuda() -> bool:
    """Whether torch runs on an NVIDIA GPU.

    Raises:
        UserError: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError("the torch peer needs torch: pip install 'gpst_jax[codecs]'") from error
    return torch.cuda.is_available()
