"""Flow matching in torch (see gpst_jax/models/flow_matching.py): velocity and ODE solver."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from gpst_jax.hf.configuration import FlowSpeechConfig
from gpst_jax.hf.conformer import frame_context, make_backbone

if TYPE_CHECKING:
    from gpst_jax.generation.flow_sampler import FlowSettings
    from gpst_jax.generation.frame_batches import FrameRequest


class FlowForSpeech(PreTrainedModel):
    """The velocity network with the codec's codebooks; see `forward` and `generate`."""

    config_class = FlowSpeechConfig
    base_model_prefix = ""
    main_input_name = "x"

    def __init__(self, config: FlowSpeechConfig):
        super().__init__(config)
        self.model_config = model = config.model_config()
        self.layout = layout = config.token_layout()
        width, latent = model.net.d_model, config.latent_size
        self.codebooks = _Table(layout.num_codebooks, layout.codebook_size, latent)
        self.latent_shift = nn.Parameter(torch.zeros(2, latent), requires_grad=False)
        self.latent_scale = nn.Parameter(torch.ones(()), requires_grad=False)
        table = model.semantics == "table"
        self.semantic_embed = nn.Embedding(layout.num_units, latent) if table else None
        self.condition_on_semantics = model.chain != "implicit"
        self.to_embed = nn.Linear((3 if self.condition_on_semantics else 2) * latent + 1, width)
        self.backbone = make_backbone(model)
        self.to_pred = nn.Linear(width, latent, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=module.weight.shape[-1] ** -0.5)

    def latents(self, codes: torch.Tensor) -> torch.Tensor:
        """x1 (B, T, D), shifted and scaled, of codes (B, T, Q)."""
        books = self.codebooks.weight
        total = sum(books[q][codes[..., q]] for q in range(len(books)))
        return (total - self.latent_shift[1]) / self.latent_scale

    def semantics(self, units: torch.Tensor) -> torch.Tensor:
        """Semantics e (B, T, D) of units (B, T)."""
        if self.semantic_embed is not None:
            return self.semantic_embed(units)
        return (self.codebooks.weight[0][units] - self.latent_shift[0]) / self.latent_scale

    def forward(
        self,
        x: torch.Tensor,
        e: torch.Tensor,
        context: torch.Tensor,
        t: torch.Tensor,
        valid: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The predicted velocity (B, T, D) float32.

        Args:
            x: (B, T, D) points on the paths.
            e: (B, T, D) semantics.
            context: (B, T, D), x1 on prompt frames and 0 on the others.
            t: (B,) flow times in [0, 1].
            valid: (B, T), above 0 on frames, such as the loader's `segment_ids`; None where every
                frame is valid. `latents` and `semantics` take the loader's `codes` and `units`.
        """
        dtype = self.to_embed.weight.dtype
        x, e, context = x.to(dtype), e.to(dtype), context.to(dtype)
        valid = None if valid is None else valid > 0
        time = t[:, None, None].expand(*x.shape[:2], 1).to(x.dtype)
        semantics = [e] if self.condition_on_semantics else []
        hidden = self.to_embed(torch.cat([x, *semantics, context, time], dim=-1))
        frames = frame_context(
            self.model_config.net, self.model_config.rope_base, x.shape[1], x.device, valid
        )
        return self.to_pred(self.backbone(hidden, frames, t)).float()

    @torch.no_grad()
    def generate(
        self,
        requests: "Sequence[FrameRequest]",
        settings: "FlowSettings | None" = None,
        *,
        seed: int = 0,
        noise: Sequence[np.ndarray] | None = None,
    ) -> list[np.ndarray]:
        """Latents (T, D) float32 of each request, in the codec's space, without the prompt.

        Args:
            requests: as for `gpst_jax.generation.flow_sampler.FlowSampler`.
            settings: solver and guidance.
            seed: fixes the noise, together with each request's `item`; it differs from JAX's.
            noise: of each request, (Tp + T, D); None samples it.
        """
        from gpst_jax.generation.flow_sampler import FlowSettings

        settings = settings or FlowSettings()
        given = [None] * len(requests) if noise is None else noise
        return [
            self._solve(request, settings, seed, start)
            for request, start in zip(requests, given, strict=True)
        ]

    def _solve(
        self,
        request: "FrameRequest",
        settings: "FlowSettings",
        seed: int,
        noise: np.ndarray | None,
    ) -> np.ndarray:
        from gpst_jax.generation import ode_solvers

        codes, units, prompt = self._rows(request)
        e = self.semantics(units)
        context = torch.zeros_like(e)
        if prompt:
            context[:, :prompt] = self.latents(codes)
        if noise is None:
            generator = torch.Generator(e.device).manual_seed(seed * 1_000_003 + request.item)
            start = torch.randn(e.shape, generator=generator, device=e.device)
        else:
            start = torch.as_tensor(noise, device=e.device)[None]
        start = self.model_config.prior_std * settings.temperature * start
        x = e + start if self.model_config.chain == "implicit" else start

        def field(x: torch.Tensor, t: float) -> torch.Tensor:
            time = torch.full((1,), t, device=x.device)
            conditional = self(x, e, context, time)
            if not settings.guidance:
                return conditional
            unconditional = self(x, torch.zeros_like(e), torch.zeros_like(context), time)
            return conditional + settings.guidance * (conditional - unconditional)

        method, step_size = ode_solvers.tableau(settings.solver), 1.0 / settings.steps
        for step in range(settings.steps):
            slopes: list[torch.Tensor] = []
            for weights, shift in zip(method.a, method.c, strict=True):
                point = x
                for weight, slope in zip(weights, slopes, strict=True):
                    point = point + step_size * weight * slope
                slopes.append(field(point, (step + shift) / settings.steps))
            for weight, slope in zip(method.b, slopes, strict=True):
                x = x + step_size * weight * slope
        if self.model_config.chain == "explicit":
            x = x + e
        latents = x * self.latent_scale + self.latent_shift[1]
        return latents[0, prompt:].float().cpu().numpy()

    def _rows(self, request: "FrameRequest") -> tuple[torch.Tensor, torch.Tensor, int]:
        """Codes of the prompt (1, Tp, Q), units of prompt and target (1, T), and Tp."""
        device = self.latent_shift.device
        units = np.asarray(request.units, np.int64)
        codes = np.zeros((self.layout.num_codebooks, 0), np.int64)
        if request.prompt_codes is not None:
            codes = np.asarray(request.prompt_codes, np.int64)
            given = request.prompt_units
            prompt_units = codes[0] if given is None else np.asarray(given, np.int64)
            units = np.concatenate([prompt_units, units])
        return (
            torch.as_tensor(codes.T, device=device)[None],
            torch.as_tensor(units, device=device)[None],
            codes.shape[1],
        )


class _Table(nn.Module):
    """Frozen codebooks (Q, N, D)."""

    def __init__(self, *shape: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape), requires_grad=False)
