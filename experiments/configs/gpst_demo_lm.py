"""The language model of the GPST demo, text to units: 1.9M parameters, minutes on two cores.

    make demo

trains it on the transcripts of the demo's corpus. On sequences of your own, made by
data_pipeline.build_sequences:

    python -m experiments.pretrain --config=experiments/configs/gpst_demo_lm.py \
        --workdir=RUN --config.data.path=SEQUENCES

Hardware: any. Quality: README.md, the row "text to speech".
Expected losses: docs/curves/gpst_demo_lm.json (experiments.status --expect).
"""

import dataclasses

from experiments.configs import coig_lm_demo
from gpst_jax.config import RunConfig, SemanticLMConfig, TransformerConfig


def get_config() -> RunConfig:
    """The run; `data.path` is given on the command line."""
    config = coig_lm_demo.get_config()
    return dataclasses.replace(
        config,
        name="gpst_demo_lm",
        model=SemanticLMConfig(
            net=TransformerConfig(d_model=192, num_layers=4, num_heads=3, d_ff=512),
        ),
        train=dataclasses.replace(
            config.train, steps=600, eval_every=300, checkpoint_every_steps=300
        ),
    )
