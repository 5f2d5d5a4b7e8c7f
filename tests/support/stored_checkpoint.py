"""Checkpoints of two small arrays, written without a run."""

import jax.numpy as jnp

from gpst_jax.checkpoints import manager
from gpst_jax.checkpoints import record as run_record
from gpst_jax.config import GPSTConfig, RunConfig, TransformerConfig

NET = TransformerConfig(d_model=8, num_layers=2, num_heads=2, d_ff=16)
CONFIG = RunConfig(name="toy", model=GPSTConfig(global_net=NET, local_net=NET))
DATASET = {"fingerprint": "f", "splits": {"train": {"hours": 0.5}}, "text_tokenizer": None}


def make_params(seed=0.0):
    return {"a": {"kernel": jnp.arange(32.0).reshape(4, 8) / 7 + seed}, "b": {"scale": jnp.ones(8)}}


def write_run(workdir, config=CONFIG, steps=(1,), **items):
    record = run_record.describe_run(config, "Toy", DATASET) | {"data": {"row": 8, "plan": "p"}}
    saves = manager.Checkpoints(workdir, keep_latest=10)
    for step in steps:
        saves.save(step, {"params": make_params(step)} | items, record)
    saves.close()
    return record
