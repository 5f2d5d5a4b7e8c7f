"""GPST at demo size: 4.1M parameters, trained in minutes on two cores.

    make demo

trains it on synthetic speech. On a token dataset of your own:

    python -m experiments.pretrain --config=experiments/configs/gpst_demo.py \
        --workdir=RUN --config.data.path=DATASET

Hardware: any. Quality: README.md.
Expected losses: docs/curves/gpst_demo.json (experiments.status --expect).
"""

from gpst_jax.config import (
    DataConfig,
    GPSTConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    TransformerConfig,
)


def get_config() -> RunConfig:
    """The run; `data.path` is given on the command line."""
    return RunConfig(
        name="gpst_demo",
        model=GPSTConfig(
            global_net=TransformerConfig(d_model=256, num_layers=4, num_heads=4, d_ff=672),
            local_net=TransformerConfig(d_model=128, num_layers=2, num_heads=4, d_ff=352),
            block="modern",
            # Words are in the first codes: so weighted they are learned in fewer steps than with
            # uniform weights (docs/studies/loss_weights.md).
            semantic_weight=0.5,
            codebook_weights="geometric:0.5",
        ),
        # Fits a segment of 5 s: 250 units, 250 frames and two start symbols.
        data=DataConfig(batch_size=2, sequence_length=512, frame_budget=256, crop_seconds=5.0),
        optimizer=OptimizerConfig(
            name="muon",
            learning_rate=2e-3,
            muon_learning_rate=2e-2,
            schedule="cosine",
            warmup_steps=30,
            weight_decay=0.01,
        ),
        train=TrainConfig(
            steps=500,
            log_every=10,
            eval_every=250,
            eval_batches=16,
            checkpoint_every_steps=250,
            checkpoint_every_minutes=2.0,
        ),
    )
