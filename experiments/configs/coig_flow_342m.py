"""Flow matching of SpeechGPT-Gen as released: 341.9M parameters, on SpeechTokenizer's latents.

    python -m experiments.pretrain --config=experiments/configs/coig_flow_342m.py \
        --workdir=RUN --config.data.path=DATASET

DATASET: recordings tokenised with --semantic=speechtokenizer:MODEL --codec=speechtokenizer:MODEL.
Crops of 12 s, prompts of up to 6 s, Adam (0.9, 0.99) at 1e-4 after 5,000 warm-up steps, gradient
clipping at 0.5, batch size 322: the released recipe (46 on each of 7 devices). Hardware: not
measured. Quality: not measured.
"""

import numpy as np

from data_pipeline.tokens import TokenLayout
from gpst_jax.config import (
    DataConfig,
    FlowConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    TransformerConfig,
)
from gpst_jax.objectives import FlowObjective


def get_objective(config: RunConfig) -> FlowObjective:
    """The objective on SpeechTokenizer's frames, for compilation: only shapes matter."""
    layout = TokenLayout(1024, 8, 1024, unit_rate=50.0, frame_rate=50.0)
    return FlowObjective(config, layout, np.ones((8, 1024, 1024), np.float32))


def get_config() -> RunConfig:
    """The run; `data.path` is given on the command line."""
    return RunConfig(
        name="coig_flow_342m",
        model=FlowConfig(
            net=TransformerConfig(d_model=1024, num_layers=12, num_heads=16, d_ff=4096),
            backbone="uconformer",
            dropout=0.1,
            dtype="bfloat16",
            remat="full",
        ),
        data=DataConfig(batch_size=322, frame_budget=640, crop_seconds=12.0, num_workers=8),
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=1e-4,
            schedule="cosine",
            warmup_steps=5000,
            beta2=0.99,
            weight_decay=0.0,
            clip_norm=0.5,
        ),
        train=TrainConfig(
            steps=200_000,
            ema_decay=0.9999,
            log_every=20,
            eval_every=2000,
            checkpoint_every_steps=1000,
            checkpoint_every_minutes=15.0,
            keep_every=20_000,
        ),
    )
