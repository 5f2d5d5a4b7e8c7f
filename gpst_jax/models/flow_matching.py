"""Conditional flow matching for perceptual content: the second stage of arXiv 2401.13527.

The latent x1 of a frame is the sum of its code vectors; its semantics e are the vector of the first
code alone, or a learned embedding. The network predicts the velocity of straight paths from noise
to latents, conditioned on the latents of a prompt. Three chains differ in where e enters:

    implicit   from e + noise to x1    the prior is centred at e, no conditioning on e
    plain      from noise to x1        the network is conditioned on e
    explicit   from noise to x1 - e    the network is conditioned on e, which is added to the result

Latents are shifted and scaled by constants, so that the modelled part has unit variance with any
codec. The constants and the codebooks are frozen parameters, so a checkpoint is self-contained.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_pipeline.tokens import TokenLayout
from gpst_jax.config import ConfigError, FlowConfig
from gpst_jax.models.bidirectional import frame_context, make_linear
from gpst_jax.models.conformer import Conformer, UConformer
from gpst_jax.models.dit import DiT
from gpst_jax.models.transformer import BlockConfig
from gpst_jax.parallel import sharding

FROZEN = ("codebooks/embedding", "latent_scale", "latent_shift")


class FlowMatcher(nnx.Module):
    """The velocity network, with the codebooks and the semantic embedding.

    Args:
        config: dimensions and variants.
        layout: vocabulary sizes and rates, from the dataset.
        shape: of the codebooks, (Q, N, D).
        rngs: for the initial values.
    """

    def __init__(
        self,
        config: FlowConfig,
        layout: TokenLayout,
        shape: tuple[int, int, int],
        *,
        rngs: nnx.Rngs,
    ):
        self.config = config
        width, latent = config.net.d_model, shape[-1]
        self.dtype = jnp.dtype(config.dtype)
        block = "modern" if config.backbone == "dit" else "paper"
        block_config = BlockConfig(block, self.dtype, config.dropout, remat=config.remat)
        block_config = block_config._replace(epsilon=config.norm_epsilon)
        self.codebooks = nnx.Embed(
            shape[0], latent, embedding_init=lambda *_: jnp.zeros(shape), rngs=rngs
        )
        # Means of the first codebook's vectors, and of x1.
        self.latent_shift = nnx.Param(jnp.zeros((2, latent)))
        self.latent_scale = nnx.Param(jnp.ones(()))
        unit = nnx.initializers.normal(1.0)
        self.semantic_embed = (
            nnx.Embed(layout.num_units, latent, embedding_init=unit, rngs=rngs)
            if config.semantics == "table"
            else None
        )
        self.condition_on_semantics = config.chain != "implicit"
        inputs = (3 if self.condition_on_semantics else 2) * latent + 1
        self.to_embed = make_linear(inputs, width, block_config, rngs=rngs)
        self.backbone: DiT | UConformer | Conformer
        if config.backbone == "dit":
            self.backbone = DiT(config.net, block_config, config.time_scale, rngs=rngs)
        else:
            make = UConformer if config.backbone == "uconformer" else Conformer
            self.backbone = make(config.net, block_config, config.conv_kernel, rngs=rngs)
        zeros = nnx.initializers.zeros
        self.to_pred = make_linear(width, latent, block_config, bias=False, init=zeros, rngs=rngs)

    def latents(self, codes: jax.Array) -> jax.Array:
        """x1 (B, T, D) float32, shifted and scaled, of codes (B, T, Q)."""
        tables = self.codebooks.embedding[...]
        vectors = [tables[q][codes[..., q]] for q in range(len(tables))]
        total = sum(vectors[1:], start=vectors[0])
        return (total - self.latent_shift[...][None, None, 1]) / self.latent_scale[...]

    def semantics(self, units: jax.Array) -> jax.Array:
        """Semantics e (B, T, D) float32 of units (B, T), from the first codebook or the table."""
        if self.semantic_embed is not None:
            table = self.semantic_embed.embedding[...]
            return sharding.gather(table, ("vocab", "embed"))[units]
        vectors = self.codebooks.embedding[...][0][units]
        return (vectors - self.latent_shift[...][None, None, 0]) / self.latent_scale[...]

    def to_codec(self, latents: jax.Array) -> jax.Array:
        """Undoes shift and scale: latents (B, T, D) to vectors that the codec decodes."""
        return latents * self.latent_scale[...] + self.latent_shift[...][None, None, 1]

    def endpoints(
        self, x1: jax.Array, e: jax.Array, noise: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Start and end of the paths of the configured chain, (B, T, D) each.

        Args:
            x1: (B, T, D) latents.
            e: (B, T, D) semantics.
            noise: (B, T, D) of unit variance.
        """
        noise = self.config.prior_std * noise
        start = e + noise if self.config.chain == "implicit" else noise
        return start, (x1 - e if self.config.chain == "explicit" else x1)

    def network_input(
        self, x: jax.Array, e: jax.Array, context: jax.Array, t: jax.Array
    ) -> jax.Array:
        """The network's input: [x, (e,) context, t], (B, T, 2D + 1) or (B, T, 3D + 1)."""
        time = jnp.broadcast_to(t[:, None, None], (*x.shape[:2], 1)).astype(x.dtype)
        semantics = [e] if self.condition_on_semantics else []
        return jnp.concatenate([x, *semantics, context, time], axis=-1)

    def velocity(
        self,
        x: jax.Array,
        e: jax.Array,
        context: jax.Array,
        t: jax.Array,
        valid: jax.Array | None = None,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """The predicted velocity.

        Args:
            x: (B, T, D) points on the paths.
            e: (B, T, D) semantics.
            context: (B, T, D), x1 on prompt frames and 0 on the others.
            t: (B,) flow times in [0, 1].
            valid: (B, T) bool, or None where every frame is.
            key: switches dropout on.

        Returns:
            (B, T, D) float32.
        """
        inputs = self.network_input(x, e, context, t).astype(self.dtype)
        return self.predict(self.backbone_of(self.embed(inputs), t, valid, key=key))

    def embed(self, inputs: jax.Array) -> jax.Array:
        """(B, T, 2D + 1 or 3D + 1) to the width of the backbone."""
        kernel = self._gather(self.to_embed.kernel[...], (None, "embed"))
        assert self.to_embed.bias is not None
        x = _flat_product(inputs, kernel) + self.to_embed.bias[...].astype(self.dtype)[None, None]
        return sharding.constrain(x, ("batch", "length", "embed"))

    def backbone_of(
        self,
        x: jax.Array,
        t: jax.Array,
        valid: jax.Array | None = None,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Applies the backbone to embedded frames (B, T, d_model)."""
        frames = frame_context(self.config.net, self.config.rope_base, x.shape[1], valid=valid)
        if isinstance(self.backbone, DiT):
            return self.backbone(x, frames, t, key=key)
        return self.backbone(x, frames, key=key)

    def predict(self, hidden: jax.Array) -> jax.Array:
        """The backbone's output (B, T, d_model) to velocities (B, T, D) float32."""
        kernel = self._gather(self.to_pred.kernel[...], ("embed", None))
        return _flat_product(hidden, kernel).astype(jnp.float32)

    def _gather(self, kernel: jax.Array, axes: sharding.LogicalAxes) -> jax.Array:
        return sharding.gather(kernel, axes, self.dtype).astype(self.dtype)


def _flat_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """(B, T, D) times (D, E) as one matrix, see `transformer.apply_flat`."""
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


def path_point(
    start: jax.Array, end: jax.Array, t: jax.Array, sigma: float | jax.Array
) -> jax.Array:
    """x_t = (1 - (1 - sigma) t) start + t end, for t that broadcasts against both."""
    return (1.0 - (1.0 - sigma) * t) * start + t * end


def path_velocity(start: jax.Array, end: jax.Array, sigma: float | jax.Array) -> jax.Array:
    """The derivative of the path, constant in t: end - (1 - sigma) start."""
    return end - (1.0 - sigma) * start


def prompt_context(x1: jax.Array, predicted: jax.Array) -> jax.Array:
    """The prompt in latents x1 (B, T, D): zero on `predicted` frames (B, T)."""
    return jnp.where(predicted[..., None], 0.0, x1)


def squared_error(
    prediction: jax.Array, target: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Squared error, averaged over dimensions and summed over the frames of a mask (B, T).

    Returns:
        Two float32 scalars: the sum and the number of frames.
    """
    error = jnp.square(prediction - target).mean(axis=-1)
    return jnp.where(mask, error, 0.0).sum(), mask.sum().astype(jnp.float32)


def latent_statistics(
    codebooks: np.ndarray, semantics: str, num_units: int, codes: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """Shifts (2, D) and scale of the latents that give the modelled part mean 0 and variance 1.

    The shifts are the means of the first codebook's vectors and of x1. The modelled part is the sum
    over all codebooks but the first, or over all of them where semantics come from a table.

    Args:
        codebooks: float32 (Q, N, D).
        semantics: "codebook" or "table".
        num_units: entries of the first codebook that are used where it holds the units.
        codes: (F, Q) of recorded frames; None assumes uniform, independent codes.
    """
    books = list(codebooks.astype(np.float64))
    first = 1 if semantics == "codebook" else 0
    if codes is None:
        books[0] = books[0][:num_units] if first else books[0]
        variance = sum(book.var(axis=0).mean() for book in books[first:])
        means = np.stack([book.mean(axis=0) for book in books])
    else:
        means = np.stack([book[codes[:, q]].mean(axis=0) for q, book in enumerate(books)])
        modelled = sum(book[codes[:, q]] for q, book in enumerate(books) if q >= first)
        variance = modelled.var(axis=0).mean()
    shifts = np.stack([means[0], means.sum(axis=0)]).astype(np.float32)
    return shifts, float(np.sqrt(variance)) or 1.0


def init(
    config: FlowConfig,
    layout: TokenLayout,
    codebooks: np.ndarray,
    key: jax.Array,
    codes: np.ndarray | None = None,
) -> dict:
    """Fresh parameters: a nested dict of float32 arrays; `FROZEN` names those that never change.

    Args:
        config: the model.
        layout: token layout of its dataset.
        codebooks: float32 (Q, N, D).
        key: for the initial values.
        codes: (F, Q) of recorded frames, for the statistics of the latents.

    Raises:
        ConfigError: beside the semantics no codebook is left to model.
    """
    if config.semantics == "codebook" and len(codebooks) < 2:
        raise ConfigError(
            "config field model.semantics: a codec of one codebook has no perceptual part; use "
            "'table', or a codec of several codebooks"
        )
    depth, entries, width = codebooks.shape
    model = FlowMatcher(config, layout, (depth, entries, width), rngs=nnx.Rngs(params=key))
    params = nnx.to_pure_dict(nnx.split(model, nnx.Param)[1])
    shift, scale = latent_statistics(codebooks, config.semantics, layout.num_units, codes)
    params["codebooks"]["embedding"] = jnp.asarray(codebooks, jnp.float32)
    params["latent_shift"] = jnp.asarray(shift)
    params["latent_scale"] = jnp.asarray(scale, jnp.float32)
    return params


def bind(config: FlowConfig, layout: TokenLayout, params: dict) -> FlowMatcher:
    """The module over parameters as `init` gives them; cheap enough to call while tracing."""
    shape = params["codebooks"]["embedding"].shape
    graph, state = nnx.split(
        nnx.eval_shape(lambda: FlowMatcher(config, layout, shape, rngs=nnx.Rngs(0))), nnx.Param
    )
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)
