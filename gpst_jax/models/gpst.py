"""GPST: a large global transformer over both token streams, a small local one per frame.

arXiv 2406.00976, section 3. A global position sums the embeddings of its Q ids; its hidden state
predicts either the next semantic unit or, through the local transformer, the next acoustic frame,
one codebook after another. The patterns without hierarchy (`gpst_jax.models.patterns`) have no
local transformer: the heads of the codebooks read the global hidden states.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from data_pipeline.tokens import EOS, PAD, TokenLayout
from gpst_jax.config import GPSTConfig, TransformerConfig
from gpst_jax.models import attention, patterns
from gpst_jax.models.rope import rope_angles
from gpst_jax.models.transformer import (
    AttentionContext,
    BlockConfig,
    Head,
    Transformer,
    dropout,
)
from gpst_jax.parallel import sharding


def attends_by_sums(num_codebooks: int) -> bool:
    """Whether the local net attends by sums, see `attention.attend_short_rows`."""
    return num_codebooks <= 16 and attention.compiled_for() == "tpu"


class TokenTransformer(Transformer):
    """A transformer with a token embedding and, unless `positions` is 0, a position embedding."""

    def __init__(
        self,
        config: TransformerConfig,
        block_config: BlockConfig,
        *,
        vocab: int,
        positions: int,
        rngs: nnx.Rngs,
    ):
        super().__init__(config, block_config, rngs=rngs)
        width = config.d_model
        init = nnx.initializers.normal(width**-0.5)

        def table(rows: int) -> nnx.Embed:
            return nnx.Embed(rows, width, embedding_init=init, dtype=jnp.float32, rngs=rngs)

        self.embed = table(vocab)
        self.positions = table(positions) if positions else None

    def lookup(self, ids: jax.Array) -> jax.Array:
        """sqrt(D) times the embedding of ids (...), exactly zero where PAD: (..., D) float32."""
        scale = jnp.where(ids == PAD, 0.0, self.config.d_model**0.5)
        # Gathering the table communicates less than exchanging the embeddings.
        table = sharding.gather(self.embed.embedding[...], ("vocab", "embed"))
        return table[ids] * scale[..., None]


class GPST(nnx.Module):
    """The hierarchical transformer, or a single one over codes in another pattern.

    Args:
        config: dimensions and variants.
        layout: vocabulary sizes, codebooks and rates, from the dataset.
        rngs: for the initial values.
    """

    def __init__(self, config: GPSTConfig, layout: TokenLayout, *, rngs: nnx.Rngs):
        self.config, self.layout = config, layout
        dtype = jnp.dtype(config.dtype)
        block_config = BlockConfig(
            config.block, dtype, config.dropout, config.attention, config.remat
        )
        self.arrangement = patterns.arrangement(config.pattern)
        hierarchical = config.pattern == "hierarchical"
        wide, narrow = config.global_net.d_model, config.local_net.d_model
        block_config = block_config._replace(epsilon=config.norm_epsilon)
        paper = not block_config.modern
        # The local sequences are Q long: plain attention, fused by the compiler.
        local_block_config = block_config._replace(attention="xla")
        block_config = block_config._replace(rope=block_config.modern)
        self.global_net = TokenTransformer(
            config.global_net,
            block_config,
            vocab=layout.global_vocab,
            positions=config.max_positions if paper else 0,
            rngs=rngs,
        )
        # RoPE encodes the time of a position only; both streams share the time axis.
        unit = nnx.initializers.normal(1.0)
        streams = self.arrangement.num_streams(layout.num_codebooks)
        self.streams = None if paper else nnx.Embed(streams, wide, embedding_init=unit, rngs=rngs)
        if hierarchical:
            self.local_net = TokenTransformer(
                config.local_net,
                local_block_config,
                vocab=layout.acoustic_vocab,
                positions=layout.num_codebooks,
                rngs=rngs,
            )
            self.projector = nnx.Linear(
                wide, narrow, kernel_init=nnx.initializers.xavier_uniform(), dtype=dtype, rngs=rngs
            )
        read = narrow if hierarchical else wide  # width of what the acoustic heads read
        heads: tuple[int, ...] = (read, layout.acoustic_classes)
        if not config.shared_acoustic_head:
            heads = (layout.num_codebooks, *heads)
        self.semantic_head = Head((wide, layout.semantic_vocab), wide, rngs=rngs)
        self.acoustic_head = Head(heads, read, rngs=rngs)

    def embed(self, tokens: jax.Array, positions: jax.Array, streams: jax.Array) -> jax.Array:
        """Global input (B, L, D) of ids (B, L, K), positions (B, L) and streams (B, L).

        x = sqrt(D) * sum over the K ids of E[id], plus the position embedding (paper) or the
        stream embedding (modern, where time enters by RoPE).
        """
        x = self.global_net.lookup(tokens).sum(axis=2)
        if self.global_net.positions is not None:
            table = self.global_net.positions.embedding[...]
            # Positions of padding may exceed the table, where a lookup would give NaN.
            x = x + table[jnp.minimum(positions, len(table) - 1)]
        if self.streams is not None:
            x = x + self.streams(streams)
        return sharding.constrain(x.astype(self.config.dtype), ("batch", "length", "embed"))

    def context(self, positions: jax.Array, **fields) -> AttentionContext:
        """RoPE angles of the positions (B, L) for the modern block, and the given fields."""
        angles = None
        if self.config.block == "modern":
            angles = rope_angles(
                positions,
                self.config.global_net.head_dim,
                self.config.rope_base,
                time_scale=self.config.rope_time_scale,
            )
        return AttentionContext(angles=angles, **fields)

    @jax.named_scope("global")
    def hidden(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        streams: jax.Array,
        segment_ids: jax.Array | None = None,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Global hidden states (B, L, D) of packed rows; a key switches dropout on."""
        keys = (None, None) if key is None else jax.random.split(key)
        x = dropout(self.embed(tokens, positions, streams), self.config.dropout, keys[0])
        return self.global_net(x, self.context(positions, segment_ids=segment_ids), key=keys[1])

    def arrange(self, batch: Mapping[str, jax.Array]) -> patterns.Line:
        """The line of positions that `hidden` reads, of a batch "interleaved"."""
        tick = self.layout.ticks_per_frame if self.config.block == "modern" else 0
        return self.arrangement.arrange(self.layout, batch, tick)

    def code_logits(
        self,
        hidden: jax.Array,
        index: jax.Array,
        frames: jax.Array,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Logits of all codes of frames under teacher forcing, in any pattern.

        Args:
            hidden: (B, N, D) global hidden states of a `Line`.
            index: (B, K) positions that predict the first codes of the frames.
            frames: (B, K, Q) local ids.
            key: switches dropout on.

        Returns:
            (B * K, Q, classes) float32.
        """
        picked = self.predicting(hidden, index)
        if self.config.pattern == "hierarchical":
            return self.acoustic_logits(self.frame_hidden(picked, frames, key=key))
        if self.config.pattern == "parallel":
            picked = picked.reshape(-1, hidden.shape[-1])
            heads = self.acoustic_kernel()
            return jnp.einsum("nd,qdc->nqc", picked, heads).astype(jnp.float32)
        picked = picked.reshape(-1, self.layout.num_codebooks, hidden.shape[-1])
        return self.acoustic_logits(sharding.constrain(picked, ("batch", "codebooks", "embed")))

    def predicting(self, hidden: jax.Array, index: jax.Array) -> jax.Array:
        """Hidden states that predict frames: (B, K, D), or (B, K * Q, D) with one for each code.

        Args:
            hidden: (B, N, D) global hidden states of a `Line`.
            index: (B, K) positions that predict the first codes of the frames.
        """
        if self.arrangement.stepwise:
            steps = jnp.arange(self.layout.num_codebooks)[None, None]
            index = (index[:, :, None] + steps).reshape(len(index), -1)
        return jnp.take_along_axis(hidden, index[:, :, None], axis=1)

    def frame_hidden(
        self, picked: jax.Array, frames: jax.Array, *, key: jax.Array | None = None
    ) -> jax.Array:
        """Local hidden states (B * K, Q, d) of frames (B, K, Q), whose predictors are (B, K, D)."""
        picked = picked.reshape(-1, picked.shape[-1])
        return self.local_hidden(picked, frames.reshape(-1, frames.shape[-1]), key=key)

    def local_inputs(self, hidden: jax.Array, frames: jax.Array) -> jax.Array:
        """Local input (N, Q, d).

        Position 0 is the projected hidden state, position q the scaled embedding of code q - 1;
        the last code is never an input.

        Args:
            hidden: (N, D) global hidden states, one per frame.
            frames: (N, Q) local ids of the frames that they predict.
        """
        first = self.project(hidden).astype(jnp.float32)[:, None]
        rest = self.local_net.lookup(frames[:, :-1])
        assert self.local_net.positions is not None
        positions = self.local_net.positions.embedding[...]
        x = jnp.concatenate([first, rest], axis=1) + positions[None]
        return sharding.constrain(x.astype(self.config.dtype), ("batch", "codebooks", "embed"))

    def project(self, hidden: jax.Array) -> jax.Array:
        """(N, D) to (N, d): from the global to the local width."""
        kernel, bias = self.projector.kernel[...], self.projector.bias
        assert bias is not None
        kernel = self._gather(kernel, ("embed", "local_embed"))
        return hidden @ kernel + bias[...].astype(hidden.dtype)[None]

    @jax.named_scope("local")
    def local_hidden(
        self, hidden: jax.Array, frames: jax.Array, *, key: jax.Array | None = None
    ) -> jax.Array:
        """Local hidden states (N, Q, d) under teacher forcing."""
        keys = (None, None) if key is None else jax.random.split(key)
        x = dropout(self.local_inputs(hidden, frames), self.config.dropout, keys[0])
        if attends_by_sums(self.layout.num_codebooks):
            context = AttentionContext(positions_first=True)
            return self.local_net(x.swapaxes(0, 1), context, key=keys[1]).swapaxes(0, 1)
        return self.local_net(x, AttentionContext(), key=keys[1])

    def semantic_kernel(self) -> jax.Array:
        """The semantic head (D, V_s) in the activation dtype."""
        return self._gather(self.semantic_head.kernel[...], ("embed", "vocab"))

    @jax.named_scope("semantic_head")
    def semantic_logits(self, hidden: jax.Array) -> jax.Array:
        """(..., D) to (..., V_s) float32."""
        return (hidden @ self.semantic_kernel()).astype(jnp.float32)

    def acoustic_kernel(self) -> jax.Array:
        """The acoustic head (d, classes), or (Q, d, classes), in the activation dtype."""
        kernel = self.acoustic_head.kernel[...]
        return self._gather(kernel, ("codebooks", "embed", "vocab")[-kernel.ndim :])

    @jax.named_scope("acoustic_head")
    def acoustic_logits(self, local_hidden: jax.Array) -> jax.Array:
        """(N, Q, d) to (N, Q, classes) float32, by the head of each codebook or the shared one.

        Local hidden states, or global ones (d = D) of the positions that predict each code.
        """
        kernel = self.acoustic_kernel()
        if kernel.ndim == 2:
            return (local_hidden @ kernel).astype(jnp.float32)
        return jnp.einsum("nqd,qdc->nqc", local_hidden, kernel).astype(jnp.float32)

    def _gather(self, kernel: jax.Array, axes: sharding.LogicalAxes) -> jax.Array:
        dtype = jnp.dtype(self.config.dtype)
        return sharding.gather(kernel, axes, dtype).astype(dtype)

    def targets(self, frames: jax.Array) -> jax.Array:
        """Head classes of local ids (..., Q): code + 4, or 2 in every codebook for the end."""
        shift = jnp.arange(self.layout.num_codebooks, dtype=frames.dtype)
        shift = (shift * self.layout.codebook_size).reshape((1,) * (frames.ndim - 1) + (-1,))
        return jnp.maximum(frames - shift, EOS)


def init(config: GPSTConfig, layout: TokenLayout, key: jax.Array) -> dict:
    """Fresh parameters: a nested dict of float32 arrays."""
    model = GPST(config, layout, rngs=nnx.Rngs(params=key))
    return nnx.to_pure_dict(nnx.split(model, nnx.Param)[1])


def bind(config: GPSTConfig, layout: TokenLayout, params: dict) -> GPST:
    """The module over parameters as `init` gives them; cheap enough to call while tracing."""
    graph, state = nnx.split(
        nnx.eval_shape(lambda: GPST(config, layout, rngs=nnx.Rngs(0))), nnx.Param
    )
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)
