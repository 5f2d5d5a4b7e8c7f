"""GPST at its published size: 190.7M parameters, 8 codebooks (arXiv 2406.00976).

    python -m experiments.pretrain --config=experiments/configs/gpst_190m.py \
        --workdir=RUN --config.data.path=DATASET

Tokens: the paper's 10,000 units come from `xlsr2_1b_v2` (docs/tokenizers.md, "The paper's units");
any 10,000 units at 50 Hz fit. EnCodec 24 kHz with 8 codebooks, from chunks of
at most 10 s (`tokenize_corpus --chunk_seconds=10`). Optimisation as published: Adam with inverse
square root decay over 1M updates of 64 crops of 10 s.

Hardware: one v5e:4x4 slice (16 chips, 4 micro-batches of one row per chip): 1.40 of 15.75 GiB per
chip, MFU at most 99 %; v5p:2x2x4: 1.66 of 95.74 GiB, 97 %; v6e:4x4: 1.58 of 31.25 GiB, 71 %, bound
by collectives (compile-only, docs/pods.md). On N chips data.batch_size is a multiple of 4 N.
Quality: not measured.
"""

from data_pipeline.tokens import TokenLayout
from gpst_jax.config import (
    DataConfig,
    GPSTConfig,
    MeshConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    TransformerConfig,
)


def get_layout() -> TokenLayout:
    """XLSR units and EnCodec frames."""
    return TokenLayout(10_000, 8, 1024, unit_rate=50.0, frame_rate=75.0)


def get_config() -> RunConfig:
    """The run; `data.path` is given on the command line."""
    return RunConfig(
        name="gpst_190m",
        model=GPSTConfig(
            global_net=TransformerConfig(d_model=1024, num_layers=9, num_heads=16, d_ff=4096),
            local_net=TransformerConfig(d_model=512, num_layers=12, num_heads=8, d_ff=2048),
            block="paper",
            label_smoothing=0.1,
            dropout=0.1,
            local_drop=0.0,
            dtype="bfloat16",
            remat="dots",
        ),
        # Fits a crop of 10 s: at most 500 units, 750 frames and two start symbols.
        data=DataConfig(
            batch_size=64,
            sequence_length=1280,
            frame_budget=768,
            crop_seconds=10.0,
            deduplicate=True,
            positions="running",
            join_speakers=False,
            num_workers=4,
        ),
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=5e-4,
            schedule="inverse_sqrt",
            warmup_steps=10_000,
            weight_decay=0.01,
        ),
        # One row per chip and micro-batch: most activations then stay in on-chip memory.
        train=TrainConfig(
            steps=1_000_000,
            grad_accum_steps=4,
            log_every=100,
            eval_every=5000,
            checkpoint_every_steps=5000,
            checkpoint_every_minutes=15.0,
            keep_every=100_000,
        ),
        mesh=MeshConfig(replica=-1, fsdp=16),
    )
