"""The language model of SpeechGPT-Gen at its published size: Llama 2 7B over text and 1,024 units.

    python -m experiments.pretrain --config=experiments/configs/coig_lm_7b.py \
        --workdir=RUN --config.data.path=SEQUENCES --config.train.init_from=LLAMA

LLAMA is a directory of Llama 2 weights in safetensors. This is the first stage, on units alone
(data_pipeline.build_sequences --tasks=pretrain). `coig_lm_7b_instruct` is the second stage, and
docs/coig.md describes the third, adapters for dialogue. Batch size and schedule are SpeechGPT's
where known (arXiv 2305.11000); SpeechGPT-Gen's were never published.
Hardware: one slice of v5p:4x4x8 (128 chips, 4 rows each): 35.30 of 95.74 GiB per chip, MFU at most
99 % (compile-only, docs/pods.md); with less memory, --config.model.remat=full. Quality: not
measured.
"""

from data_pipeline.tokens.vocabulary import Vocabulary
from gpst_jax.config import (
    DataConfig,
    MeshConfig,
    OptimizerConfig,
    RunConfig,
    SemanticLMConfig,
    TrainConfig,
    TransformerConfig,
)
from gpst_jax.objectives import SemanticLMObjective


def get_objective(config: RunConfig) -> SemanticLMObjective:
    """The objective on Llama 2's 32,000 text tokens and SpeechTokenizer's first codebook."""
    return SemanticLMObjective(config, Vocabulary(text_size=32_000, num_units=1024))


def get_config() -> RunConfig:
    """The run; `data.path` and `train.init_from` are given on the command line."""
    return RunConfig(
        name="coig_lm_7b",
        model=SemanticLMConfig(
            net=TransformerConfig(d_model=4096, num_layers=32, num_heads=32, d_ff=11008),
            block="llama",
            dtype="bfloat16",
            remat="dots",
        ),
        data=DataConfig(batch_size=512, sequence_length=2048, num_workers=8),
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=2e-5,
            schedule="cosine",
            warmup_steps=300,
            weight_decay=0.0,
            beta2=0.999,
        ),
        train=TrainConfig(
            steps=10_000,
            log_every=10,
            eval_every=500,
            checkpoint_every_steps=500,
            checkpoint_every_minutes=15.0,
            keep_every=2000,
        ),
        mesh=MeshConfig(replica=-1, fsdp=16),
    )
