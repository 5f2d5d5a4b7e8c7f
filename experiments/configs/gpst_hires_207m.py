"""GPST-Hi-Res at its published size: 207.5M parameters, 16 codebooks, local-drop 0.5.

    python -m experiments.pretrain --config=experiments/configs/gpst_hires_207m.py \
        --workdir=RUN --config.data.path=DATASET

Everything else is as in `gpst_190m`. Hardware: one v5e:4x4 slice (16 chips, 4 micro-batches of one
row per chip): 1.53 of 15.75 GiB per chip, MFU at most 100 %; v5p:2x2x4: 1.89 of 95.74 GiB, 82 %,
and v6e:4x4: 1.82 of 31.25 GiB, 59 %, both HBM-bound (compile-only, docs/pods.md). Quality: not
measured.
"""

import dataclasses

from data_pipeline.tokens import TokenLayout
from experiments.configs import gpst_190m
from gpst_jax.config import GPSTConfig, RunConfig


def get_layout() -> TokenLayout:
    """Units as in `gpst_190m`, EnCodec at 12 kbps."""
    return dataclasses.replace(gpst_190m.get_layout(), num_codebooks=16)


def get_config() -> RunConfig:
    """The run; `data.path` is given on the command line."""
    config = gpst_190m.get_config()
    return dataclasses.replace(
        config,
        name="gpst_hires_207m",
        model=dataclasses.replace(config.model_as(GPSTConfig), local_drop=0.5),
    )
