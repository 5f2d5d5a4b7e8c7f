"""The semantic language model in torch, `modern` block (see gpst_jax/models/semantic_lm.py).

A model with Llama's block is exported as transformers' own `LlamaForCausalLM` instead.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from gpst_jax.config.fields import ConfigError
from gpst_jax.hf.configuration import SemanticLMSpeechConfig
from gpst_jax.hf.layers import (
    AttentionContext,
    KeysValues,
    Transformer,
    causal,
    cross_entropy,
    rope_angles,
)

if TYPE_CHECKING:
    from gpst_jax.generation.config import SamplingConfig
    from gpst_jax.generation.lm_grammar import Grammar
    from gpst_jax.generation.lm_sampler import LMRequest, LMResult


class SemanticLM(PreTrainedModel):
    """Text and units in one vocabulary; see `forward` and `generate`."""

    config_class = SemanticLMSpeechConfig
    base_model_prefix = ""

    def __init__(self, config: SemanticLMSpeechConfig):
        super().__init__(config)
        self.model_config = model = config.model_config()
        if model.block != "modern" or model.rope_scaling is not None:
            raise ConfigError("config field model.block: this class is for 'modern' only")
        width = model.net.d_model
        self.net = Transformer(model.net, True, True, model.norm_epsilon)
        self.embed = nn.Embedding(config.vocab_size, width)
        tied = model.tie_embeddings
        self.head = None if tied else nn.Linear(width, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=module.weight.shape[-1] ** -0.5)

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor | None = None,
        segment_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> CausalLMOutput:
        """Logits (B, L, V) of ids (B, L).

        The arrays are those of `data_pipeline.loading.batches`, int64 or int32: `tokens` are
        `input_ids`, and `targets` are `labels`.

        Args:
            input_ids: (B, L).
            positions: (B, L); None counts from 0.
            segment_ids: (B, L), attention stays within a segment; None: one segment.
            labels: (B, L), the next id of each position (they are not shifted here), -1 where
                nothing is predicted.
        """
        hidden, _ = self.extend(input_ids, positions, segment_ids)
        logits, loss = self.logits(hidden), None
        if labels is not None:
            model = self.model_config
            loss = cross_entropy(logits, labels, labels >= 0, model.label_smoothing, model.z_loss)
        return CausalLMOutput(loss=loss, logits=logits)

    def extend(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor | None = None,
        segment_ids: torch.Tensor | None = None,
        past: list[KeysValues] | None = None,
    ) -> tuple[torch.Tensor, list[KeysValues]]:
        """Hidden states (B, L, D) of the ids after `past`, and the KV cache of all."""
        cache_length = past[0][0].shape[2] if past else 0
        if positions is None:
            positions = cache_length + torch.arange(ids.shape[1], device=ids.device)[None]
        model = self.model_config
        visible = causal(ids.shape[1], cache_length, ids.device)
        if segment_ids is not None:
            visible = visible & (segment_ids[:, None, :, None] == segment_ids[:, None, None, :])
        x = math.sqrt(model.net.d_model) * self.embed(ids)
        angles = rope_angles(positions, model.net.head_dim, model.rope_base)
        return self.net(x, AttentionContext(angles, visible), past)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., D) to (..., V) float32."""
        head = self.embed if self.head is None else self.head
        return functional.linear(hidden, head.weight).float()

    @torch.no_grad()
    def generate(
        self,
        requests: "Sequence[LMRequest]",
        grammar: "Grammar",
        *,
        text: "SamplingConfig | None" = None,
        units: "SamplingConfig | None" = None,
        seed: int = 0,
    ) -> "list[LMResult]":
        """Continues prompts within a grammar, as `gpst_jax.generation.lm_sampler.LMDecoder` does.

        Args:
            requests: the prompts.
            grammar: what may follow.
            text: how ids are sampled in phases of text; None: the published settings.
            units: how ids are sampled in phases of units; None: the published settings.
            seed: fixes the samples, together with each request's `item`.
        """
        from gpst_jax.generation.lm_sampler import PUBLISHED

        text, units = text or PUBLISHED, units or PUBLISHED
        return [self._continue(request, grammar, text, units, seed) for request in requests]

    def _continue(
        self,
        request: "LMRequest",
        grammar: "Grammar",
        text: "SamplingConfig",
        units: "SamplingConfig",
        seed: int,
    ) -> "LMResult":
        from gpst_jax.generation.lm_grammar import UNITS
        from gpst_jax.generation.lm_sampler import LMResult

        allowed, following = grammar.tables(self.config.vocab_size)
        device = self.embed.weight.device
        generator = torch.Generator(device).manual_seed(seed * 1_000_003 + request.item)
        ids = torch.as_tensor(np.asarray(request.prompt, np.int64), device=device)[None]
        hidden, past = self.extend(ids)
        new_ids: list[int] = []
        log_probs: list[float] = []
        phase = 0
        while len(new_ids) < request.max_new and phase < len(allowed):
            logits = self.logits(hidden[0, -1])
            kind = grammar.phases[phase].kind if phase < len(grammar.phases) else None
            mask = torch.as_tensor(np.asarray(allowed[phase]), device=device)
            sampling = units if kind == UNITS else text
            token = sample_id(logits.masked_fill(~mask, -torch.inf), sampling, generator)
            new_ids.append(token)
            log_probs.append(float(logits.log_softmax(-1)[token]))
            phase = int(following[phase][token])
            hidden, past = self.extend(torch.tensor([[token]], device=device), past=past)
        return LMResult(
            ids=np.array(new_ids, np.int32),
            log_probs=np.array(log_probs, np.float32),
            ended_by="end" if phase == len(allowed) else "length",
        )


def sample_id(logits: torch.Tensor, sampling: Any, generator: torch.Generator) -> int:
    """Samples an id: temperature, then top-k, then nucleus sampling (top-p)."""
    count = min(sampling.top_k or len(logits), len(logits))
    values, ids = (logits / sampling.temperature).topk(count)
    probabilities = values.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    kept = values.masked_fill(before >= sampling.top_p, -torch.inf).softmax(-1)
    return int(ids[torch.multinomial(kept, 1, generator=generator)])
