"""A GPST of 3.0 billion parameters: larger transformers than `gpst_1b`, local-drop 0.5.

    python -m experiments.pretrain --config=experiments/configs/gpst_3b.py \
        --workdir=RUN --config.data.path=DATASET

Everything else is as in `gpst_1b`. Hardware: one slice of v5p:4x4x8 (128 chips, 4 rows each):
32.31 of 95.74 GiB per chip, MFU at most 91 %; v6e:16x16 (4 rows each,
--config.model.remat=full): 8.40 of 31.25 GiB, 73 %; v5e:16x16 (1 row each, all frames of a row at
once): 8.31 of 15.75 GiB, 73 % (compile-only, docs/pods.md). Quality: not measured.
"""

import dataclasses

from experiments.configs import gpst_1b
from experiments.configs.gpst_1b import get_layout as get_layout
from gpst_jax.config import GPSTConfig, RunConfig, TransformerConfig


def get_config() -> RunConfig:
    """The run; `data.path` is given on the command line."""
    config = gpst_1b.get_config()
    return dataclasses.replace(
        config,
        name="gpst_3b",
        model=dataclasses.replace(
            config.model_as(GPSTConfig),
            global_net=TransformerConfig(d_model=3072, num_layers=24, num_heads=24, d_ff=8192),
            local_net=TransformerConfig(d_model=1024, num_layers=12, num_heads=8, d_ff=2816),
            local_drop=0.5,
            local_chunk=208,  # of the 832 frames of a row that local-drop keeps
            remat="dots",
        ),
        data=dataclasses.replace(config.data, batch_size=512),
        # Its weights are too large to be gathered for every row.
        train=dataclasses.replace(config.train, grad_accum_steps=1),
        optimizer=dataclasses.replace(config.optimizer, learning_rate=6e-4),
    )
