"""A decoder-only language model over text and semantic units in one vocabulary.

arXiv 2401.13527, section 3: the first stage of the chain of information. Text and speech share one
embedding table, so the model is an ordinary language model and can be initialised from one.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from gpst_jax.config import SemanticLMConfig
from gpst_jax.models.rope import rope_angles
from gpst_jax.models.transformer import (
    AttentionContext,
    BlockConfig,
    Head,
    Transformer,
    dropout,
)
from gpst_jax.parallel import sharding


class SemanticLM(nnx.Module):
    """The language model.

    Args:
        config: dimensions and variants.
        vocab_size: V, ids of text, markers and units together.
        rngs: for the initial values.
    """

    def __init__(self, config: SemanticLMConfig, vocab_size: int, *, rngs: nnx.Rngs):
        self.config, width = config, config.net.d_model
        self.dtype = jnp.dtype(config.dtype)
        modern = config.block == "modern"
        block_config = BlockConfig(
            config.block,
            self.dtype,
            config.dropout,
            config.attention,
            config.remat,
            rope=modern,
            epsilon=config.norm_epsilon,
        )
        # Unit-norm embedding rows, scaled by sqrt(D) at the input; Llama does not scale.
        self.scale = width**0.5 if modern else 1.0
        init = nnx.initializers.normal(width**-0.5)
        self.net = Transformer(config.net, block_config, rngs=rngs)
        self.embed = nnx.Embed(vocab_size, width, embedding_init=init, dtype=jnp.float32, rngs=rngs)
        self.head = None if config.tie_embeddings else Head((width, vocab_size), width, rngs=rngs)

    def lookup(self, tokens: jax.Array) -> jax.Array:
        """Input embeddings (B, L, D) of ids (B, L)."""
        table = sharding.gather(self.embed.embedding[...], ("vocab", "embed"))
        x = (table[tokens] * self.scale).astype(self.dtype)
        return sharding.constrain(x, ("batch", "length", "embed"))

    def context(self, positions: jax.Array, **fields) -> AttentionContext:
        """RoPE angles of the positions (B, L), and the given fields."""
        config = self.config
        angles = rope_angles(positions, config.net.head_dim, config.rope_base, config.rope_scaling)
        return AttentionContext(angles=angles, **fields)

    def hidden(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array | None = None,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Hidden states (B, L, D) of packed rows of ids (B, L); a key switches dropout on."""
        keys = (None, None) if key is None else jax.random.split(key)
        x = dropout(self.lookup(tokens), self.config.dropout, keys[0])
        return self.net(x, self.context(positions, segment_ids=segment_ids), key=keys[1])

    def output_kernel(self) -> jax.Array:
        """The output matrix (D, V) in the activation dtype."""
        if self.head is None:
            table = self.embed.embedding[...]
            return sharding.gather(table, ("vocab", "embed"), self.dtype).astype(self.dtype).T
        kernel = self.head.kernel[...]
        return sharding.gather(kernel, ("embed", "vocab"), self.dtype).astype(self.dtype)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """(..., D) to (..., V) float32."""
        return (hidden @ self.output_kernel()).astype(jnp.float32)


def init(config: SemanticLMConfig, vocab_size: int, key: jax.Array) -> dict:
    """Fresh parameters: a nested dict of float32 arrays."""
    model = SemanticLM(config, vocab_size, rngs=nnx.Rngs(params=key))
    return nnx.to_pure_dict(nnx.split(model, nnx.Param)[1])


def bind(config: SemanticLMConfig, params: dict) -> SemanticLM:
    """The module over parameters as `init` gives them; cheap enough to call while tracing."""
    vocab_size = params["embed"]["embedding"].shape[0]
    graph, state = nnx.split(
        nnx.eval_shape(lambda: SemanticLM(config, vocab_size, rngs=nnx.Rngs(0))), nnx.Param
    )
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)
