"""The flattened baseline: one decoder over all T * Q codes, with GPST's parameter count.

A row is the sequence  BOS_s  s_1 .. s_U  BOS_a  a_1^1 .. a_1^Q  a_2^1 ..  in which every code is a
position, as in AudioLM. Block, output head per codebook, loss and optimiser are those of GPST; the
last position has no target (GPST's end frame).
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.tokens import EOS
from gpst_jax.benchmarks.workload import Workload
from gpst_jax.config import GPSTConfig, TransformerConfig
from gpst_jax.models import gpst
from gpst_jax.models.rope import rope_angles
from gpst_jax.models.transformer import AttentionContext, BlockConfig, Head
from gpst_jax.objectives import Batch, Metrics, Params, losses


class Flattened(nnx.Module):
    """A single transformer over the flattened sequence.

    Args:
        config: its dimensions.
        workload: gives the block, the dtype and the vocabularies.
        rngs: for the initial values.
    """

    def __init__(self, config: TransformerConfig, workload: Workload, *, rngs: nnx.Rngs):
        model, layout, width = workload.config.model_as(GPSTConfig), workload.layout, config.d_model
        block_config = BlockConfig(
            model.block, jnp.dtype(model.dtype), 0.0, model.attention, model.remat
        )
        self.block_config, self.config = block_config, config
        self.rope_base = model.rope_base
        self.global_net = gpst.TokenTransformer(
            config,
            block_config._replace(rope=block_config.modern),
            vocab=layout.global_vocab,
            positions=0 if block_config.modern else flat_length(workload),
            rngs=rngs,
        )
        heads = (layout.num_codebooks, width, layout.acoustic_classes)
        self.semantic_head = Head((width, layout.semantic_vocab), width, rngs=rngs)
        self.acoustic_head = Head(heads, width, rngs=rngs)

    def hidden(self, tokens: jax.Array) -> jax.Array:
        """(B, L) ids to (B, L, D)."""
        x, angles = self.global_net.lookup(tokens), None
        at = jnp.arange(tokens.shape[1])[None]
        if self.global_net.positions is not None:
            x = x + self.global_net.positions.embedding[...][None]
        if self.block_config.modern:
            angles = rope_angles(at, self.config.head_dim, self.rope_base)
            angles = jnp.broadcast_to(angles, (len(tokens), *angles.shape[1:]))
        return self.global_net(x.astype(self.block_config.dtype), AttentionContext(angles=angles))


def flat_length(workload: Workload) -> int:
    """Positions of a row: both start symbols, units and codes."""
    return workload.units + workload.frames * workload.layout.num_codebooks + 2


def flat_net(workload: Workload, parameters: int) -> TransformerConfig:
    """A transformer as wide as the global one, sized for about `parameters` in the model.

    The depth is chosen first, then the feed-forward width (a multiple of 8) absorbs the rest.
    """
    model, layout = workload.config.model_as(GPSTConfig), workload.layout
    wide, width = model.global_net, model.global_net.d_model
    outside = width * (layout.global_vocab + layout.semantic_vocab)
    outside += width * layout.num_codebooks * layout.acoustic_classes
    matrices = 3 if model.block == "modern" else 2
    layer = 4 * width**2 + matrices * width * wide.d_ff
    depth = max(round((parameters - outside) / layer), 1)
    inner = (parameters - outside) / depth - 4 * width**2
    d_ff = max(round(inner / (matrices * width) / 8), 1) * 8
    return dataclasses.replace(wide, num_layers=depth, d_ff=d_ff)


class FlattenedObjective:
    """The flattened decoder as an `Objective` (gpst_jax/objectives/base.py)."""

    def __init__(self, workload: Workload, net: TransformerConfig):
        self.workload, self.layout, self.net = workload, workload.layout, net

    def init(self, key: jax.Array) -> Params:
        """Random parameters."""
        model = Flattened(self.net, self.workload, rngs=nnx.Rngs(params=key))
        return nnx.to_pure_dict(nnx.split(model, nnx.Param)[1])

    def model(self, params: Params) -> Flattened:
        """The module over the given parameters."""
        graph, state = nnx.split(
            nnx.eval_shape(lambda: Flattened(self.net, self.workload, rngs=nnx.Rngs(0))), nnx.Param
        )
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state)

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """`tokens` (B, L), and target classes of both streams, (B, U + 1) and (B, T, Q)."""
        work = self.workload
        shapes = {
            "tokens": (work.rows, flat_length(work)),
            "semantic_targets": (work.rows, work.units + 1),
            "acoustic_targets": (work.rows, work.frames, self.layout.num_codebooks),
        }
        return {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in shapes.items()}

    def batch(self) -> dict[str, np.ndarray]:
        """The tokens of the workload as a flattened batch."""
        layout = self.layout
        units, codes = self.workload.tokens()
        semantic = layout.units_to_ids(units)
        acoustic = np.stack([layout.codes_to_ids(row) for row in codes])
        start = np.full((len(units), 1), EOS, np.int32)
        flat = acoustic.reshape(len(units), -1) + layout.semantic_vocab
        return {
            "tokens": np.concatenate(
                [start, semantic, start + layout.semantic_vocab, flat], axis=1
            ).astype(np.int32),
            "semantic_targets": np.concatenate([semantic, start], axis=1).astype(np.int32),
            "acoustic_targets": layout.ids_to_classes(acoustic).astype(np.int32),
        }

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """Number of predictions of each stream."""
        return {
            name: jnp.asarray(batch[f"{name}_targets"].size, jnp.float32)
            for name in ("semantic", "acoustic")
        }

    def loss(
        self,
        params: Params,
        batch: Batch,
        key: jax.Array,
        weights: Mapping[str, jax.Array],
        train: bool,
    ) -> tuple[jax.Array, Metrics]:
        """Mean semantic plus mean acoustic cross-entropy."""
        model, work = self.model(params), self.workload
        hidden = model.hidden(batch["tokens"])
        dtype, units = model.block_config.dtype, work.units + 1
        semantic = losses.chunked_cross_entropy(
            hidden[:, :units],
            model.semantic_head.kernel[...].astype(dtype),
            batch["semantic_targets"],
            jnp.ones((work.rows, units)),
        )[0]
        codes = hidden[:, units:-1].reshape(-1, self.layout.num_codebooks, hidden.shape[-1])
        kernel = model.acoustic_head.kernel[...].astype(dtype)
        logits = jnp.einsum("nqd,qdc->nqc", codes, kernel)
        targets = batch["acoustic_targets"].reshape(logits.shape[:2])
        acoustic = losses.cross_entropy(logits, targets, jnp.ones(targets.shape))[0]
        metrics = {
            "nll_semantic": (semantic, weights["semantic"]),
            "nll_acoustic": (acoustic, weights["acoustic"]),
        }
        return semantic / weights["semantic"] + acoustic / weights["acoustic"], metrics

    def flops(self) -> dict[str, float]:
        """Training FLOPs by the rule of `GPSTObjective.flops`: 6 per weight and position."""
        work, net, layout = self.workload, self.net, self.layout
        length, width = flat_length(work), net.d_model
        matrices = 3 if work.config.model_as(GPSTConfig).block == "modern" else 2
        layers = net.num_layers * (4 * width**2 + matrices * width * net.d_ff)
        codes = work.frames * layout.num_codebooks
        return {
            "global": 6.0 * work.rows * length * layers,
            "global_attention": 6.0 * work.rows * length**2 * width * net.num_layers,
            "semantic_head": 6.0 * work.rows * (work.units + 1) * width * layout.semantic_vocab,
            "acoustic_head": 6.0 * work.rows * codes * width * layout.acoustic_classes,
        }

    def rates(self, batch: Batch) -> dict[str, jax.Array]:
        """Predicted tokens and seconds of audio."""
        seconds = self.workload.frames_per_step / self.layout.frame_rate
        return {
            "tokens": sum(self.weights(batch).values(), jnp.zeros(())),
            "audio_seconds": jnp.asarray(seconds),
        }

    def trainable(self, path: str) -> bool:
        """Every parameter is trained."""
        return True

    def check_dataset(self, spec: DatasetSpec) -> None:
        """Nothing to check: batches are synthetic."""
