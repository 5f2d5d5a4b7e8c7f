"""Second stage of `coig_lm_7b`: ASR and TTS instructions, all parameters trained.

    python -m experiments.pretrain --config=experiments/configs/coig_lm_7b_instruct.py \
        --workdir=RUN --config.data.path=SEQUENCES --config.train.init_from=FIRST_STAGE

SEQUENCES: data_pipeline.build_sequences --tasks=asr,tts. Hardware: as `coig_lm_7b`. Quality: not
measured.
"""

import dataclasses

from experiments.configs import coig_lm_7b
from experiments.configs.coig_lm_7b import get_objective as get_objective
from gpst_jax.config import RunConfig


def get_config() -> RunConfig:
    """The run; `data.path` and `train.init_from` are given on the command line."""
    config = coig_lm_7b.get_config()
    return dataclasses.replace(
        config,
        name="coig_lm_7b_instruct",
        train=dataclasses.replace(config.train, steps=40_000),
    )
