"""The flow-matching stage of SpeechGPT-Gen at demo size, trained in minutes on two cores.

    make demo-coig

trains it on synthetic speech. On a token dataset of your own, whose codec has a semantic first
codebook (data_pipeline.fit_tokenizers --unified, or SpeechTokenizer):

    python -m experiments.pretrain --config=experiments/configs/coig_flow_demo.py \
        --workdir=RUN --config.data.path=DATASET

Hardware: any. Quality: docs/results.md.
"""

from gpst_jax.config import (
    DataConfig,
    FlowConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    TransformerConfig,
)


def get_config() -> RunConfig:
    """The run; `data.path` is given on the command line."""
    return RunConfig(
        name="coig_flow_demo",
        model=FlowConfig(
            net=TransformerConfig(d_model=256, num_layers=6, num_heads=4, d_ff=672),
            backbone="dit",
            prior_std=0.5,
            # Utterances of one speaker are joined to 6 s; any start of a segment may be the prompt.
            max_prompt_seconds=4.0,
            prompt_per_item=True,
        ),
        data=DataConfig(batch_size=4, frame_budget=304, crop_seconds=6.0),
        optimizer=OptimizerConfig(
            name="muon",
            learning_rate=2e-3,
            muon_learning_rate=2e-2,
            schedule="cosine",
            warmup_steps=30,
        ),
        train=TrainConfig(
            steps=800,
            ema_decay=0.995,
            log_every=20,
            eval_every=200,
            eval_batches=16,
            checkpoint_every_steps=200,
            checkpoint_every_minutes=2.0,
        ),
    )
