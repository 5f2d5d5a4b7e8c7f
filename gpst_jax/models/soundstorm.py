"""SoundStorm (arXiv 2305.09636): masked prediction of codes, level by level, given the units.

The masked-prediction baseline of arXiv 2401.13527, as in its official code. A level is a codebook
of the residual vector quantiser. Where units are the first codebook, the levels are the others;
where they come from another model, every codebook is a level.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_pipeline.tokens import TokenLayout
from gpst_jax.config import ConfigError, SoundStormConfig
from gpst_jax.models.bidirectional import frame_context, make_linear
from gpst_jax.models.conformer import Conformer
from gpst_jax.models.transformer import BlockConfig, apply_flat, make_norm
from gpst_jax.parallel import sharding


class SoundStorm(nnx.Module):
    """The masked-prediction network: codes of all levels and units to logits of all levels.

    Args:
        config: dimensions and variants.
        layout: vocabulary sizes, codebooks and rates, from the dataset.
        rngs: for the initial values.
    """

    def __init__(self, config: SoundStormConfig, layout: TokenLayout, *, rngs: nnx.Rngs):
        self.config = config
        self.num_levels = num_levels(config, layout)
        self.mask_id = layout.codebook_size  # the row after the codes, in the table of every level
        self.dtype = jnp.dtype(config.dtype)
        width = config.net.d_model
        block_config = BlockConfig("paper", self.dtype, config.dropout, remat=config.remat)
        unit = nnx.initializers.normal(1.0)
        rows = self.num_levels * (layout.codebook_size + 1)
        self.code_embed = nnx.Embed(rows, width, embedding_init=unit, rngs=rngs)
        self.semantic_embed = nnx.Embed(layout.num_units, width, embedding_init=unit, rngs=rngs)
        self.backbone = Conformer(config.net, block_config, config.conv_kernel, rngs=rngs)
        self.level_head = make_linear(width, self.num_levels * width, block_config, rngs=rngs)
        self.head_norm = make_norm(width, block_config, rngs)
        self.acoustic_head = CodeHead(self.num_levels, width, layout.codebook_size, rngs=rngs)

    def embed(self, codes: jax.Array, units: jax.Array) -> jax.Array:
        """Sum of the embeddings of codes (B, T, L) and units (B, T); negative units add nothing."""
        table = sharding.gather(self.code_embed.embedding[...], ("vocab", "embed"))
        shift = jnp.arange(self.num_levels) * (self.mask_id + 1)
        x = table[codes + shift[None, None]].sum(axis=2)
        table = sharding.gather(self.semantic_embed.embedding[...], ("vocab", "embed"))
        x = x + jnp.where(units[..., None] >= 0, table[jnp.maximum(units, 0)], 0.0)
        return sharding.constrain(x.astype(self.dtype), ("batch", "length", "embed"))

    def hidden(
        self,
        codes: jax.Array,
        units: jax.Array,
        valid: jax.Array | None = None,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Hidden states of each level, (B, T, L, D).

        Args:
            codes: (B, T, L) int, `mask_id` where masked.
            units: (B, T) int, negative where there is none.
            valid: (B, T) bool, or None where every frame is.
            key: switches dropout on.
        """
        frames = frame_context(self.config.net, self.config.rope_base, codes.shape[1], valid=valid)
        x = self.backbone(self.embed(codes, units), frames, key=key)
        x = apply_flat(self.level_head, x)
        return x.reshape(*x.shape[:2], self.num_levels, -1)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Logits (B, T, L, N) float32 of the hidden states of all levels."""
        kernel, bias = self._head()
        hidden = self.head_norm(hidden).astype(self.dtype)
        return jnp.einsum("btld,ldn->btln", hidden, kernel).astype(jnp.float32) + bias[None, None]

    def level_logits(self, hidden: jax.Array, level: jax.Array) -> jax.Array:
        """Logits (B, T, N) float32 of one level of each row, level (B,)."""
        kernel, bias = self._head()
        picked = jnp.take_along_axis(hidden, level[:, None, None, None], axis=2)[:, :, 0]
        picked = self.head_norm(picked).astype(self.dtype)
        logits = jnp.einsum("btd,bdn->btn", picked, kernel[level]).astype(jnp.float32)
        return logits + bias[level][:, None]

    def _head(self) -> tuple[jax.Array, jax.Array]:
        axes = ("codebooks", "embed", "vocab")
        kernel = sharding.gather(self.acoustic_head.kernel[...], axes, self.dtype)
        return kernel.astype(self.dtype), self.acoustic_head.bias[...]


class CodeHead(nnx.Module):
    """A linear layer per level to its codes, initialised from N(0, 1 / D)."""

    def __init__(self, levels: int, width: int, codes: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.normal(width**-0.5)
        self.kernel = nnx.Param(init(rngs.params(), (levels, width, codes), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((levels, codes)))


def first_level(config: SoundStormConfig) -> int:
    """The codebook of level 0."""
    return 1 if config.semantics == "codebook" else 0


def num_levels(config: SoundStormConfig, layout: TokenLayout) -> int:
    """Codebooks that are predicted; raises ConfigError where none is left."""
    levels = layout.num_codebooks - first_level(config)
    if levels < 1:
        raise ConfigError(
            "config field model.semantics: a codec of one codebook has no level beside its "
            "semantics; use 'table', or a codec of several codebooks"
        )
    return levels


def mask_codes(
    codes: jax.Array, level: jax.Array, selected: jax.Array, prompt: jax.Array, mask_id: int
) -> jax.Array:
    """Codes (B, T, L) as the network sees them when one level of each row is to be predicted.

    Args:
        codes: (B, T, L) int.
        level: (B,) int. Lower levels are unmasked, higher ones are masked outside the prompt.
        selected: (B, T) bool, frames whose code of that level is masked.
        prompt: (B, T) bool.
        mask_id: id of a masked code.
    """
    levels, level = jnp.arange(codes.shape[2])[None, None], level[:, None, None]
    masked = (levels == level) & selected[..., None]
    masked = masked | ((levels > level) & ~prompt[..., None])
    return jnp.where(masked, mask_id, codes)


def init(
    config: SoundStormConfig, layout: TokenLayout, codebooks: np.ndarray, key: jax.Array
) -> dict:
    """Fresh parameters: a nested dict of float32 arrays.

    The tables of codes, and of units where they are the first codebook, are initialised from the
    codec's vectors, as in the official code: projected to D by a random matrix where the widths
    differ, and scaled to unit variance. The row of masked codes is zero.

    Args:
        config: dimensions and variants.
        layout: of the dataset.
        codebooks: float32 (Q, N, D) of the codec.
        key: for the initial values.
    """
    model_key, map_key = jax.random.split(key)
    model = SoundStorm(config, layout, rngs=nnx.Rngs(params=model_key))
    params = nnx.to_pure_dict(nnx.split(model, nnx.Param)[1])
    first, width = first_level(config), config.net.d_model
    centred = codebooks - codebooks.mean(axis=1, keepdims=True)
    tables = jnp.asarray(centred / (centred[first:].std() or 1.0), jnp.float32)
    if tables.shape[-1] != width:
        tables = tables @ jax.random.normal(map_key, (tables.shape[-1], width))
        tables = tables * codebooks.shape[-1] ** -0.5
    rows = jnp.pad(tables[first:], ((0, 0), (0, 1), (0, 0)))
    params["code_embed"]["embedding"] = rows.reshape(-1, width)
    if config.semantics == "codebook":
        params["semantic_embed"]["embedding"] = tables[0, : layout.num_units]
    return params


def bind(config: SoundStormConfig, layout: TokenLayout, params: dict) -> SoundStorm:
    """The module over parameters as `init` gives them; cheap enough to call while tracing."""
    graph, state = nnx.split(
        nnx.eval_shape(lambda: SoundStorm(config, layout, rngs=nnx.Rngs(0))), nnx.Param
    )
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)
