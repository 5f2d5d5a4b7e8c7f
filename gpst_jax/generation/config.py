"""Sampling settings, shared by the autoregressive families."""

import dataclasses

from gpst_jax.config import ConfigError


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How one stream is sampled. `top_k` = 1 is greedy; 0 keeps every class.

    `top_p` is nucleus sampling among the classes kept by `top_k`.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"sampling: top_p must lie in (0, 1], got {self.top_p}")
        if self.temperature <= 0 or self.top_k < 0:
            raise ConfigError(
                "sampling: temperature must be positive and top_k not negative, got "
                f"{self.temperature} and {self.top_k}; top_k=1 decodes greedily"
            )
