"""Decoding in torch: the same requests and results as `gpst_jax.generation.gpst_sampler`.

`gpst_jax.generation.gpst_modes.RequestBuilder` makes the requests of the inference modes. Greedy
decoding equals that of JAX; random samples have the same distribution, but other random numbers.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from data_pipeline.tokens import ACOUSTIC, EOS, NUM_SPECIALS, PAD, SEMANTIC
from gpst_jax.hf.layers import AttentionContext, KeysValues, causal

if TYPE_CHECKING:
    from gpst_jax.generation.config import SamplingConfig
    from gpst_jax.generation.gpst_sampler import Request, Result


class _Item:
    """One item in progress: its KV cache and newest hidden state."""

    def __init__(self, model: Any, request: "Request", device: torch.device, seed: int):
        self.model, self.request, self.device = model, request, device
        self.past: list[KeysValues] | None = None
        self.hidden = torch.zeros(0)
        self.cache_length = 0
        self.generator = torch.Generator(device).manual_seed(seed * 1_000_003 + request.item)

    def extend(self, ids: np.ndarray, times: np.ndarray, stream: int) -> None:
        """Prefill or decode step: ids (n, Q) at `times` (n,) in ticks."""
        if self.model.config.positions == "running":
            times = self.cache_length + np.arange(len(ids))
        tokens = torch.as_tensor(np.asarray(ids, np.int64), device=self.device)[None]
        positions = torch.as_tensor(np.asarray(times, np.int64), device=self.device)[None]
        streams = torch.full_like(positions, stream)
        hidden, self.past = self.model.extend(tokens, positions, streams, self.past)
        self.hidden, self.cache_length = hidden[:, -1], self.cache_length + len(ids)

    def sample(
        self, logits: torch.Tensor, allowed: torch.Tensor, sampling: "SamplingConfig"
    ) -> tuple[int, torch.Tensor]:
        """Samples a class; also returns all log-probabilities under the unmasked model."""
        log_probs = logits.log_softmax(-1)
        logits = (logits / sampling.temperature).masked_fill(~allowed, -torch.inf)
        if sampling.top_k == 1:
            return int(logits.argmax()), log_probs
        if sampling.top_k:
            lowest = logits.topk(min(sampling.top_k, len(logits))).values[-1]
            logits = logits.masked_fill(logits < lowest, -torch.inf)
        sampled = torch.multinomial(logits.softmax(-1), 1, generator=self.generator)
        return int(sampled), log_probs


class SpeechGeneration:
    """`generate` for a model with two streams; mixed into the model class."""

    config: Any
    layout: Any
    model_config: Any

    @torch.no_grad()
    def generate(
        self,
        requests: "Sequence[Request]",
        *,
        semantic: "SamplingConfig | None" = None,
        acoustic: "SamplingConfig | None" = None,
        seed: int = 0,
    ) -> "list[Result]":
        """Decodes units and frames.

        Args:
            requests: the items, as for `gpst_jax.generation.gpst_sampler.Decoder`.
            semantic: how units are sampled; None: temperature 1, all classes.
            acoustic: how codes are sampled; None: temperature 1, all classes.
            seed: fixes the samples, together with each request's `item`.

        Returns:
            One `gpst_jax.generation.gpst_sampler.Result` per request, in order.

        Raises:
            ValueError: units or codes out of range.
        """
        from gpst_jax.generation.config import SamplingConfig

        semantic, acoustic = semantic or SamplingConfig(), acoustic or SamplingConfig()
        return [self._decode(request, semantic, acoustic, seed) for request in requests]

    def _decode(
        self,
        request: "Request",
        semantic: "SamplingConfig",
        acoustic: "SamplingConfig",
        seed: int,
    ) -> "Result":
        from gpst_jax.generation.gpst_requests import GIVEN, Result, next_times, prefix_times

        layout = self.layout
        unit_times, frame_times = prefix_times(layout, request)
        unit_start, frame_start = next_times(layout, request)
        device = next(self.parameters()).device  # type: ignore[attr-defined]
        item = _Item(self, request, device, seed)

        prefix = np.full((len(request.units) + 1, layout.num_codebooks), PAD)
        prefix[0, 0] = EOS
        prefix[1:, 0] = layout.units_to_ids(request.units)
        item.extend(prefix, np.concatenate([[0], unit_times]), SEMANTIC)
        units, units_ended_by, log_prob_units = self._sample_units(item, semantic, unit_start)

        frames: list[np.ndarray] = []
        frames_ended_by, log_prob_frames = GIVEN, 0.0
        if request.max_frames:
            given = layout.codes_to_ids(request.codes) + layout.semantic_vocab
            bos = np.full((1, layout.num_codebooks), layout.bos_acoustic)
            item.extend(np.concatenate([bos, given]), np.concatenate([[0], frame_times]), ACOUSTIC)
            frames, frames_ended_by, log_prob_frames = self._sample_frames(
                item, acoustic, frame_start
            )
        ids = np.reshape(np.array(frames, np.int32), (-1, layout.num_codebooks))
        return Result(
            units=np.array(units, np.int32) - NUM_SPECIALS,
            codes=layout.ids_to_codes(ids),
            units_ended_by=units_ended_by if request.max_units else GIVEN,
            frames_ended_by=frames_ended_by,
            log_prob_units=log_prob_units,
            log_prob_frames=log_prob_frames,
        )

    def _sample_units(
        self, item: _Item, sampling: "SamplingConfig", start: int
    ) -> tuple[list[int], str, float]:
        """Sampled ids of units, what ended them, and their log-probability."""
        layout = self.layout
        classes = torch.arange(layout.semantic_vocab, device=item.device)
        allowed = (classes == EOS) | (classes >= NUM_SPECIALS)
        units: list[int] = []
        total = 0.0
        while len(units) < item.request.max_units:
            logits = self.semantic_head(item.hidden)[0]  # type: ignore[attr-defined]
            unit, log_probs = item.sample(logits, allowed, sampling)
            total += float(log_probs[unit])
            if unit == EOS:
                return units, "end", total
            units.append(unit)
            ids = np.full((1, layout.num_codebooks), PAD)
            ids[0, 0] = unit
            item.extend(ids, np.array([start + len(units) * layout.ticks_per_unit]), SEMANTIC)
        return units, "length", total

    def _sample_frames(
        self, item: _Item, sampling: "SamplingConfig", start: int
    ) -> tuple[list[np.ndarray], str, float]:
        """Local ids of sampled frames, what ended them, and their log-probability."""
        layout = self.layout
        frames: list[np.ndarray] = []
        total = 0.0
        while len(frames) < item.request.max_frames:
            may_end = len(frames) >= item.request.min_frames
            frame, log_prob = self._sample_frame(item, sampling, may_end)
            total += log_prob
            if frame is None:
                return frames, "end", total
            frames.append(frame)
            ids = frame[None] + layout.semantic_vocab
            time = start + len(frames) * layout.ticks_per_frame
            item.extend(ids, np.array([time]), ACOUSTIC)
        return frames, "length", total

    def _sample_frame(
        self, item: _Item, sampling: "SamplingConfig", may_end: bool
    ) -> tuple[np.ndarray | None, float]:
        """Local ids (Q,), or None at the end, and their log-probability.

        That of the end is the log-probability of the end in all codebooks.
        """
        layout, net, head = self.layout, self.local_net, self.acoustic_head  # type: ignore[attr-defined]
        classes = torch.arange(layout.acoustic_classes, device=item.device)
        codes_only = classes >= NUM_SPECIALS
        ids: list[int] = []
        past, end, total = None, False, 0.0
        x = self.projector(item.hidden)  # type: ignore[attr-defined]
        for codebook in range(layout.num_codebooks):
            x = (x + net.positions.weight[codebook])[:, None]
            context = AttentionContext(visible=causal(1, codebook, item.device))
            out, past = net(x, context, past)
            weight = head.weight[codebook] if head.weight.ndim == 3 else head.weight
            logits = (out[0, 0] @ weight.T).float()
            allowed = codes_only | ((classes == EOS) & may_end) if codebook == 0 else codes_only
            sampled, log_probs = item.sample(logits, allowed, sampling)
            end = end or sampled == EOS
            total += float(log_probs[EOS if end else sampled])
            ids.append(EOS if end else sampled + codebook * layout.codebook_size)
            x = net.lookup(torch.tensor([ids[-1]], device=item.device))
        return (None if end else np.array(ids, np.int32)), total
