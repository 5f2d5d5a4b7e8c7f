"""GPST in torch, with the parameters, logits and loss of gpst_jax/models/gpst.py."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from data_pipeline.tokens import EOS, PAD
from gpst_jax.config import ConfigError
from gpst_jax.config.codebook_weights import codebook_weights
from gpst_jax.config.models import TransformerConfig
from gpst_jax.hf.configuration import GPSTSpeechConfig
from gpst_jax.hf.generation import SpeechGeneration
from gpst_jax.hf.layers import (
    AttentionContext,
    KeysValues,
    Transformer,
    causal,
    cross_entropy,
    rope_angles,
)


@dataclass
class GPSTOutput(ModelOutput):
    """The outputs of a forward pass.

    Attributes:
        loss: mean semantic plus mean acoustic loss, weighted as in training, where targets were
            given.
        semantic_logits: (B, L, V_s).
        acoustic_logits: (B, F, Q, classes), where frames were given.
        hidden: (B, L, D) of the global transformer.
    """

    loss: torch.Tensor | None = None
    semantic_logits: torch.Tensor | None = None
    acoustic_logits: torch.Tensor | None = None
    hidden: torch.Tensor | None = None


class TokenTransformer(Transformer):
    """A transformer with a token embedding and, unless `positions` is 0, a position embedding."""

    def __init__(
        self,
        config: TransformerConfig,
        modern: bool,
        rope: bool,
        vocab: int,
        positions: int,
        epsilon: float,
    ):
        super().__init__(config, modern, rope, epsilon)
        self.embed = nn.Embedding(vocab, config.d_model)
        self.positions = nn.Embedding(positions, config.d_model) if positions else None

    def lookup(self, ids: torch.Tensor) -> torch.Tensor:
        """sqrt(D) times the embedding of ids (...), exactly zero where PAD: (..., D)."""
        scaled = math.sqrt(self.config.d_model) * self.embed(ids)
        return torch.where((ids == PAD)[..., None], torch.zeros_like(scaled), scaled)


class Head(nn.Module):
    """A bias-free output matrix (classes, D), or one for each codebook (Q, classes, D)."""

    def __init__(self, *shape: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., D) to (..., classes) float32; with one matrix per codebook, of (..., Q, D)."""
        if self.weight.ndim == 2:
            return functional.linear(hidden, self.weight).float()
        return torch.einsum("...qd,qcd->...qc", hidden, self.weight).float()


class GPSTForSpeech(SpeechGeneration, PreTrainedModel):
    """GPST for training, scoring and generation in torch; see `forward` and `generate`."""

    config_class = GPSTSpeechConfig
    base_model_prefix = ""
    main_input_name = "tokens"

    def __init__(self, config: GPSTSpeechConfig):
        super().__init__(config)
        model, layout = config.model_config(), config.token_layout()
        if model.pattern != "hierarchical":
            raise ConfigError(
                f"config field model.pattern: {model.pattern!r} has no torch class; load the "
                "weights with gpst_jax"
            )
        self.model_config, self.layout = model, layout
        modern = model.block == "modern"
        wide, narrow = model.global_net.d_model, model.local_net.d_model
        positions = 0 if modern else model.max_positions
        self.global_net = TokenTransformer(
            model.global_net, modern, modern, layout.global_vocab, positions, model.norm_epsilon
        )
        self.streams = nn.Embedding(2, wide) if modern else None
        self.local_net = TokenTransformer(
            model.local_net,
            modern,
            False,
            layout.acoustic_vocab,
            layout.num_codebooks,
            model.norm_epsilon,
        )
        self.projector = nn.Linear(wide, narrow)
        self.semantic_head = Head(layout.semantic_vocab, wide)
        heads = () if model.shared_acoustic_head else (layout.num_codebooks,)
        self.acoustic_head = Head(*heads, layout.acoustic_classes, narrow)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Plain normal initialisation; the class is made for pretrained parameters."""
        if isinstance(module, nn.Linear | nn.Embedding | Head):
            nn.init.normal_(module.weight, std=module.weight.shape[-1] ** -0.5)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        streams: torch.Tensor,
        segment_ids: torch.Tensor | None = None,
        frame_index: torch.Tensor | None = None,
        frames: torch.Tensor | None = None,
        frame_segments: torch.Tensor | None = None,
        semantic_targets: torch.Tensor | None = None,
    ) -> GPSTOutput:
        """Teacher-forced forward pass over a batch, see `data_pipeline.loading.batches`.

        All are integers, int64 or the loader's int32.

        Args:
            tokens: (B, L, Q) global ids.
            positions: (B, L) ticks or running indices.
            streams: (B, L), 0 semantic, 1 acoustic.
            segment_ids: (B, L), attention stays within a segment; None: one segment.
            frame_index: (B, F), the position whose hidden state predicts each frame.
            frames: (B, F, Q) local ids.
            frame_segments: (B, F), 0 where there is no frame; None: all are.
            semantic_targets: (B, L), -1 where nothing is predicted.
        """
        hidden, _ = self.extend(tokens, positions, streams, segment_ids=segment_ids)
        semantic = self.semantic_head(hidden)
        acoustic = loss = None
        if frames is not None and frame_index is not None:
            index = frame_index.long()[..., None].expand(-1, -1, hidden.shape[-1])
            picked = hidden.gather(1, index)
            acoustic = self.acoustic_logits(picked.flatten(0, 1), frames.flatten(0, 1))
            acoustic = acoustic.unflatten(0, frames.shape[:2])
        if semantic_targets is not None and acoustic is not None and frames is not None:
            loss = self._acoustic_loss(acoustic, frames, frame_segments)
            if self.model_config.semantic_loss:
                units = self._loss(semantic, semantic_targets, semantic_targets >= 0)
                loss = loss + self.model_config.semantic_weight * units
        return GPSTOutput(loss, semantic, acoustic, hidden)

    def extend(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        streams: torch.Tensor,
        past: list[KeysValues] | None = None,
        segment_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, list[KeysValues]]:
        """Hidden states (B, L, D) of the positions after `past`, and the KV cache of all.

        Args:
            tokens: (B, L, Q).
            positions: (B, L).
            streams: (B, L).
            past: the KV cache of the previous positions.
            segment_ids: (B, L); only without a past.
        """
        net = self.global_net
        x = net.lookup(tokens).sum(dim=2)
        if net.positions is not None:
            x = x + net.positions(positions.clamp(max=net.positions.num_embeddings - 1))
        angles = None
        if self.streams is not None:
            x = x + self.streams(streams)
            model = self.model_config
            angles = rope_angles(
                positions, model.global_net.head_dim, model.rope_base, model.rope_time_scale
            )
        visible = causal(tokens.shape[1], past[0][0].shape[2] if past else 0, tokens.device)
        if segment_ids is not None:
            same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
            visible = visible & same
        return net(x, AttentionContext(angles, visible), past)

    def acoustic_logits(self, hidden: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """(N, Q, classes) from hidden states (N, D) and the frames (N, Q) that they predict."""
        net = self.local_net
        assert net.positions is not None
        first = self.projector(hidden)[:, None]
        x = torch.cat([first, net.lookup(frames[:, :-1])], dim=1) + net.positions.weight
        local, _ = net(x, AttentionContext(visible=causal(x.shape[1], 0, x.device)))
        return self.acoustic_head(local)

    def targets(self, frames: torch.Tensor) -> torch.Tensor:
        """Head classes of local ids (..., Q)."""
        shift = torch.arange(self.layout.num_codebooks, device=frames.device)
        return (frames - shift * self.layout.codebook_size).clamp(min=EOS)

    def _mask(self, frames: torch.Tensor, segments: torch.Tensor | None) -> torch.Tensor:
        if segments is None:
            return torch.ones_like(frames, dtype=torch.bool)
        return (segments > 0)[..., None].expand_as(frames)

    def _acoustic_loss(
        self, logits: torch.Tensor, frames: torch.Tensor, segments: torch.Tensor | None
    ) -> torch.Tensor:
        """Mean over codebooks, weighted as in training."""
        targets, mask = self.targets(frames), self._mask(frames, segments)
        weights = codebook_weights(self.model_config.codebook_weights, self.layout.num_codebooks)
        if weights is None:
            return self._loss(logits, targets, mask)
        losses = [
            weight * self._loss(logits[..., q, :], targets[..., q], mask[..., q])
            for q, weight in enumerate(weights)
        ]
        return torch.stack(losses).mean()

    def _loss(
        self, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        model = self.model_config
        return cross_entropy(logits, targets, mask, model.label_smoothing, model.z_loss)
