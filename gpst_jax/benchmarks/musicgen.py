"""The peer: MusicGen's decoder of Hugging Face transformers, randomly initialised."""

import os
from typing import Any

from data_pipeline.runtime.errors import UserError
from gpst_jax.benchmarks import csm
from gpst_jax.benchmarks.workload import Workload


def layers_of(workload: Workload) -> tuple[int, int]:
    """Layers and inner width with which they hold as many weights as both of CSM's transformers.

    A layer has the backbone's width, two attentions (the second over the conditioning) and an
    ungated feed-forward, and about as many weights as one of the backbone. The inner width is a
    multiple of 8.
    """
    wide, narrow = csm.dimensions(workload)
    each = [4 * net.hidden**2 + 3 * net.hidden * net.inner for net in (wide, narrow)]
    total = wide.layers * each[0] + narrow.layers * each[1]
    layers = max(int(total / each[0]), 1)
    inner = (total / layers - 8 * wide.hidden**2) / (2 * wide.hidden)
    return layers, max(round(inner / 8), 1) * 8


def build_model(workload: Workload) -> Any:
    """`MusicgenForCausalLM` without its text encoder and codec; nothing is downloaded.

    Raises:
        UserError: torch or transformers is not installed.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        from transformers import MusicgenForCausalLM
        from transformers.models.musicgen.configuration_musicgen import MusicgenDecoderConfig
        from transformers.utils import logging
    except ImportError as error:
        raise UserError(
            f"the torch peer needs {error.name}: pip install 'gpst_jax[codecs]'"
        ) from error
    logging.set_verbosity_error()
    wide, _ = csm.dimensions(workload)
    layers, inner = layers_of(workload)
    layout = workload.layout
    options: dict[str, Any] = {"attn_implementation": "sdpa"}  # passed as **kwargs
    config = MusicgenDecoderConfig(
        vocab_size=layout.acoustic_classes,
        max_position_embeddings=workload.frames + layout.num_codebooks,
        num_hidden_layers=layers,
        ffn_dim=inner,
        num_attention_heads=wide.heads,
        hidden_size=wide.hidden,
        num_codebooks=layout.num_codebooks,
        dropout=0.0,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        **options,
    )
    return MusicgenForCausalLM(config)
