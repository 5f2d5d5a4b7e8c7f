"""A GPST of 1.0 billion parameters, 8 codebooks, in the modern block.

    python -m experiments.pretrain --config=experiments/configs/gpst_1b.py \
        --workdir=RUN --config.data.path=DATASET

Tokens: 10,000 units at 50 Hz and EnCodec 24 kHz with 8 codebooks, in segments of 20 s.

Hardware, with one row per chip in each of four micro-batches: v6e:8x8 (64 chips, the 256 rows of
this file): 7.32 of 31.25 GiB per chip, MFU at most 85 %; v5p:4x8x8 (256 chips, 1,024 rows): 7.38 of
95.74 GiB, 95 %; the same on 16 chips, two slices or 2,048 chips; v5e:16x16: 7.07 of 15.75 GiB, 95 %
(compile-only, docs/pods.md). On N chips data.batch_size is a multiple of 4 N. Quality: not
measured.
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
    """10,000 units and EnCodec frames."""
    return TokenLayout(10_000, 8, 1024, unit_rate=50.0, frame_rate=75.0)


def get_config() -> RunConfig:
    """The run; `data.path` is given on the command line."""
    return RunConfig(
        name="gpst_1b",
        model=GPSTConfig(
            global_net=TransformerConfig(d_model=2048, num_layers=16, num_heads=16, d_ff=5632),
            local_net=TransformerConfig(d_model=1024, num_layers=8, num_heads=8, d_ff=2816),
            block="modern",
            local_drop=0.0,
            local_chunk=384,  # of 1,536 frames: activations of a chunk stay in on-chip memory
            dtype="bfloat16",
            remat="dots",
        ),
        # Fits a segment of 20 s: 1,000 units, 1,500 frames and two start symbols.
        data=DataConfig(
            batch_size=256,
            sequence_length=2560,
            frame_budget=1536,
            crop_seconds=20.0,
            num_workers=8,
        ),
        optimizer=OptimizerConfig(
            name="muon",
            learning_rate=1e-3,
            muon_learning_rate=1e-2,
            schedule="wsd",
            warmup_steps=2000,
            weight_decay=0.01,
        ),
        # On 64 chips one row per chip and micro-batch.
        train=TrainConfig(
            steps=200_000,
            grad_accum_steps=4,
            log_every=20,
            eval_every=2000,
            checkpoint_every_steps=1000,
            checkpoint_every_minutes=15.0,
            keep_every=20_000,
        ),
        mesh=MeshConfig(replica=-1, fsdp=16),
    )
