"""The semantic language model of SpeechGPT-Gen at demo size: 3M parameters, minutes on two cores.

    make demo-coig

trains it on sequences of synthetic speech (half ASR and TTS, half spoken questions and answers).
On sequences of your own, made by data_pipeline.build_sequences:

    python -m experiments.pretrain --config=experiments/configs/coig_lm_demo.py \
        --workdir=RUN --config.data.path=SEQUENCES

Hardware: any. Quality: docs/results.md.
"""

from gpst_jax.config import (
    DataConfig,
    OptimizerConfig,
    RunConfig,
    SemanticLMConfig,
    TrainConfig,
    TransformerConfig,
)


def get_config() -> RunConfig:
    """The run; `data.path` is given on the command line."""
    return RunConfig(
        name="coig_lm_demo",
        model=SemanticLMConfig(
            net=TransformerConfig(d_model=256, num_layers=4, num_heads=4, d_ff=672),
        ),
        data=DataConfig(batch_size=2, sequence_length=512),
        optimizer=OptimizerConfig(
            name="muon",
            learning_rate=2e-3,
            muon_learning_rate=2e-2,
            schedule="cosine",
            warmup_steps=30,
        ),
        train=TrainConfig(
            steps=1050,
            log_every=20,
            eval_every=350,
            eval_batches=16,
            checkpoint_every_steps=350,
            checkpoint_every_minutes=2.0,
        ),
    )
