"""Dimensions and variants of every model family: frozen, validated dataclasses.

Vocabulary sizes, codebooks, latent widths and rates are not here: they come from the dataset.
`family` names the class when a configuration is read back from JSON.
"""

import dataclasses
from typing import Any

from gpst_jax.config.codebook_weights import codebook_weights
from gpst_jax.config.fields import (
    choice,
    fraction,
    not_negative,
    positive,
    require,
    stored_as,
)


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Dimensions of one transformer."""

    d_model: int  # width of the residual stream
    num_layers: int  # number of blocks
    num_heads: int  # attention heads; they divide d_model
    d_ff: int  # hidden width of the feed-forward part
    num_kv_heads: int | None = None  # grouped-query attention; None: as many as num_heads

    def __post_init__(self):
        positive(self, "d_model", "num_layers", "num_heads", "d_ff")
        require(
            self.d_model % self.num_heads == 0,
            "num_heads",
            f"{self.num_heads} heads do not divide d_model {self.d_model}",
        )
        require(
            self.kv_heads > 0 and self.num_heads % self.kv_heads == 0,
            "num_kv_heads",
            f"{self.num_kv_heads} do not divide the {self.num_heads} heads",
        )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.num_heads

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads


@stored_as(
    absent={
        "rope_base": 300.0,
        "rope_time_scale": 1.0,
        "norm_epsilon": 1e-6,
        "pattern": "hierarchical",
    }
)
@dataclasses.dataclass(frozen=True)
class GPSTConfig:
    """The hierarchical transformer of GPST (arXiv 2406.00976, section 3), or one without hierarchy.

    Vocabulary sizes, codebooks and frame rates are not here: they come from the dataset.
    """

    global_net: TransformerConfig
    local_net: TransformerConfig  # of the hierarchical pattern; the others have none
    block: str = "modern"  # modern: RoPE, RMSNorm, SwiGLU, QK-norm; paper: as published
    shared_acoustic_head: bool = False  # one head for all codebooks, or one per codebook
    semantic_loss: bool = True  # units are predicted too; False: codes alone
    semantic_weight: float = 1.0  # of the mean loss over units, beside 1 for that over codes
    # In the weighted mean over codebooks: uniform, geometric:RATIO, moshi (100 for the first, 1 for
    # the others), or one number per codebook such as 4,2,1,1.
    codebook_weights: str = "uniform"
    z_loss: float = 0.0  # coefficient of (log Z)^2 in the loss of each prediction; PaLM: 1e-4
    label_smoothing: float = 0.0  # the paper: 0.1
    local_drop: float = 0.0  # fraction of frames the local transformer skips; Hi-Res: 0.5
    # Frames of a row that the local transformer takes at once in training, 0: all. Fewer need less
    # memory, and on TPUs less traffic where they fit in on-chip memory (docs/pods.md).
    local_chunk: int = 0
    dropout: float = 0.0  # the paper: 0.1
    max_positions: int = 1629  # size of the learned position table (`paper`)
    # RoPE base of the `modern` block. Frames attend to units a tick or two away, in short segments:
    # with the 10,000 that is usual for text, half of the dimensions of a head do not resolve such
    # offsets, and the alignment of frames with units is learned more slowly.
    rope_base: float = 300.0
    rope_time_scale: float = 1.0  # positions are multiplied by it before RoPE (`modern`)
    norm_epsilon: float = 1e-6  # of RMSNorm (`modern`); LayerNorm (`paper`) has 1e-5
    dtype: str = "float32"  # of activations; parameters, logits and losses stay float32
    remat: str = "none"  # none | dots | full: what the backward pass recomputes
    attention: str = "auto"  # auto | xla | cudnn | splash
    # How the codes of frames are predicted, see docs/patterns.md:
    pattern: str = "hierarchical"  # hierarchical | flat | delay | parallel
    family: str = "gpst"  # names the class in a stored configuration

    def __post_init__(self):
        choice(self, "family", ("gpst",))
        choice(self, "block", ("paper", "modern"))
        choice(self, "pattern", ("hierarchical", "flat", "delay", "parallel"))
        require(
            self.local_drop == 0 or self.pattern == "hierarchical",
            "local_drop",
            f"the pattern {self.pattern!r} has no local transformer that could skip frames: set "
            "it to 0",
        )
        require(
            self.local_chunk == 0 or self.pattern == "hierarchical",
            "local_chunk",
            f"the pattern {self.pattern!r} has no local transformer that could take frames in "
            "chunks: set it to 0",
        )
        require(
            not self.shared_acoustic_head or self.pattern in ("hierarchical", "flat"),
            "shared_acoustic_head",
            f"the pattern {self.pattern!r} predicts all codebooks from one position: each needs "
            "a head of its own, set it to False",
        )
        _check_execution(self)
        for name in ("label_smoothing", "local_drop", "dropout"):
            fraction(self, name)
        positive(self, "rope_base", "rope_time_scale", "norm_epsilon")
        not_negative(self, "semantic_weight", "z_loss", "local_chunk")
        codebook_weights(self.codebook_weights)


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3's RoPE scaling, for contexts longer than in its pretraining."""

    factor: float  # low frequencies are divided by it
    low_freq_factor: float  # periods in that context up to which a frequency is low
    high_freq_factor: float  # periods in it from which a frequency is kept
    original_max_positions: int  # context length of the pretraining, in tokens


@dataclasses.dataclass(frozen=True)
class SemanticLMConfig:
    """A decoder-only language model over text and semantic units (arXiv 2401.13527, stage one)."""

    net: TransformerConfig
    block: str = "modern"  # modern: QK-norm and query and key biases; llama: as published
    rope_base: float = 10_000.0  # base of the rotary embeddings
    rope_scaling: RopeScaling | None = None
    norm_epsilon: float = 1e-5  # of RMSNorm
    tie_embeddings: bool = False  # the output matrix is the embedding table, transposed
    z_loss: float = 0.0  # coefficient of (log Z)^2 in the loss of each prediction; PaLM: 1e-4
    label_smoothing: float = 0.0  # probability spread over the vocabulary
    dropout: float = 0.0  # rate in every block
    dtype: str = "float32"  # of activations; parameters, logits and losses stay float32
    remat: str = "none"  # none | dots | full
    attention: str = "auto"  # auto | xla | cudnn | splash
    family: str = "semantic_lm"  # names the class in a stored configuration

    def __post_init__(self):
        choice(self, "family", ("semantic_lm",))
        choice(self, "block", ("modern", "llama"))
        _check_execution(self)
        for name in ("label_smoothing", "dropout"):
            fraction(self, name)
        not_negative(self, "z_loss")


@stored_as(absent={"rope_base": 10_000.0, "time_scale": 1000.0, "norm_epsilon": 1e-6})
@dataclasses.dataclass(frozen=True)
class FlowConfig:
    """Conditional flow matching for perceptual content (arXiv 2401.13527, stage two)."""

    net: TransformerConfig
    backbone: str = "uconformer"  # uconformer | conformer | dit
    chain: str = "implicit"  # implicit: semantic prior | plain: prior N(0, I) | explicit: residual
    semantics: str = "codebook"  # codebook: first codebook's vectors | table: learned
    sigma: float = 0.0  # standard deviation of the probability path at t = 1
    prior_std: float = 1.0  # standard deviation of the prior; the modelled latents have 1
    conv_kernel: int = 31  # frames of the depthwise convolution; odd (conformers)
    rope_base: float = 10_000.0  # RoPE over the indices of frames
    time_scale: float = 1000.0  # flow times in [0, 1] times this are embedded (dit)
    norm_epsilon: float = 1e-6  # of RMSNorm (dit); LayerNorm (conformers) has 1e-5
    max_prompt_seconds: float = 6.0  # longest prompt sampled in training
    prompt_per_item: bool = False  # sample a prompt length per item; the paper: one per batch
    guidance_drop: float = 0.0  # probability of no condition, for classifier-free guidance
    dropout: float = 0.0  # the paper: 0.1
    dtype: str = "float32"  # of activations; parameters and losses stay float32
    remat: str = "none"  # none | dots | full
    family: str = "flow"  # names the class in a stored configuration

    def __post_init__(self):
        choice(self, "family", ("flow",))
        choice(self, "backbone", ("uconformer", "conformer", "dit"))
        choice(self, "chain", ("implicit", "plain", "explicit"))
        choice(self, "semantics", ("codebook", "table"))
        require(
            self.semantics == "codebook" or self.chain == "plain",
            "semantics",
            "a learned table has no vectors in the codec's space: chain must be 'plain'",
        )
        _check_execution(self)
        for name in ("sigma", "guidance_drop", "dropout"):
            fraction(self, name)
        positive(self, "conv_kernel", "max_prompt_seconds", "prior_std")
        positive(self, "rope_base", "time_scale", "norm_epsilon")
        _check_kernel(self)


@stored_as(absent={"rope_base": 10_000.0})
@dataclasses.dataclass(frozen=True)
class SoundStormConfig:
    """SoundStorm (arXiv 2305.09636), the masked-prediction baseline of the second stage."""

    net: TransformerConfig
    semantics: str = "codebook"  # codebook: units are its first codebook | table: others
    conv_kernel: int = 31  # frames of the depthwise convolution; odd
    rope_base: float = 10_000.0  # RoPE over the indices of frames
    max_prompt_seconds: float = 6.0  # longest prompt sampled in training
    prompt_per_item: bool = False  # sample a prompt length per item; the paper: one per batch
    dropout: float = 0.0  # rate in every block
    dtype: str = "float32"  # of activations; parameters and losses stay float32
    remat: str = "none"  # none | dots | full
    family: str = "soundstorm"  # names the class in a stored configuration

    def __post_init__(self):
        choice(self, "family", ("soundstorm",))
        choice(self, "semantics", ("codebook", "table"))
        _check_execution(self)
        fraction(self, "dropout")
        positive(self, "conv_kernel", "max_prompt_seconds", "rope_base")
        _check_kernel(self)


ModelConfig = GPSTConfig | SemanticLMConfig | FlowConfig | SoundStormConfig


def _check_kernel(config: Any) -> None:
    require(config.conv_kernel % 2 == 1, "conv_kernel", f"{config.conv_kernel} must be odd")


def _check_execution(config: Any) -> None:
    choice(config, "dtype", ("float32", "bfloat16"))
    choice(config, "remat", ("none", "dots", "full"))
    if hasattr(config, "attention"):
        choice(config, "attention", ("auto", "xla", "cudnn", "splash"))
