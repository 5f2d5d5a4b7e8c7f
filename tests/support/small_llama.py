"""Llama models with random weights, as transformers stores them, and logits of both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpst_jax.models import semantic_lm

V = 61  # ids of the text
LLAMA2 = {
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-5,
    "vocab_size": V,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
LLAMA3 = LLAMA2 | {
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}
MODELS = {"llama2": LLAMA2, "llama3": LLAMA3}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Directories of two models with random weights, the second sharded; and the models."""
    torch, transformers = map(pytest.importorskip, ("torch", "transformers"))
    out = {}
    for seed, (name, fields) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**fields)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                # Norms away from one, logits away from zero.
                scale = 0.2 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
                parameter.add_(scale * torch.randn_like(parameter))
        directory = tmp_path_factory.mktemp(name)
        model.save_pretrained(directory, max_shard_size="30KB" if seed else "50GB")
        out[name] = directory, model
    return out


def logits(config, params, ids):
    """Logits of ours under teacher forcing."""
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1])[None], ids.shape)

    @jax.jit
    def run(params, ids):
        model = semantic_lm.bind(config, params)
        return model.logits(model.hidden(ids, positions))

    return run(params, ids)


def random_params(init, seed=0):
    """Sampled by NumPy: compiling JAX's generator for every shape is slow."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * leaf.shape[-1] ** -0.5, leaf.dtype),
        shapes,
    )


def torch_logits(model, ids):
    """Logits of a model of transformers, as a NumPy array."""
    import torch

    with torch.no_grad():
        return model(torch.tensor(ids)).logits.numpy()


IDS = np.random.default_rng(0).integers(0, V, (2, 90))
