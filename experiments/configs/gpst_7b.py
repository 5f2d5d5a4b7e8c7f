"""A GPST of 7.0 billion parameters: larger transformers than `gpst_1b`, local-drop 0.5.

    python -m experiments.pretrain --config=experiments/configs/gpst_7b.py \
        --workdir=RUN --config.data.path=DATASET

Everything else is as in `gpst_1b`. Hardware: one slice of v5p:8x8x8 (512 chips, 2 rows each):
29.26 of 95.74 GiB per chip, MFU at most 84 %; with --config.model.remat=full v5e:16x16 (1 row
each): 9.10 of 15.75 GiB, 61 %, and two slices of v6e:16x16 (2 rows each): 11.07 of 31.25 GiB, 69 %,
both with all frames of a row at once (compile-only, docs/pods.md). Quality: not measured.
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
        name="gpst_7b",
        model=dataclasses.replace(
            config.model_as(GPSTConfig),
            global_net=TransformerConfig(d_model=4096, num_layers=32, num_heads=32, d_ff=11008),
            local_net=TransformerConfig(d_model=1536, num_layers=12, num_heads=12, d_ff=4096),
            local_drop=0.5,
            local_chunk=208,  # of the 832 frames of a row that local-drop keeps
            remat="dots",
        ),
        data=dataclasses.replace(config.data, batch_size=1024),
        # Its weights are too large to be gathered for every row.
        train=dataclasses.replace(config.train, grad_accum_steps=1),
        optimizer=dataclasses.replace(config.optimizer, learning_rate=3e-4),
    )
