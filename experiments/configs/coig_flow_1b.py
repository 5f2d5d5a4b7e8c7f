"""Flow matching of SpeechGPT-Gen with 1.0 billion parameters, on SpeechTokenizer's latents.

    python -m experiments.pretrain --config=experiments/configs/coig_flow_1b.py \
        --workdir=RUN --config.data.path=DATASET

The paper gives about a billion parameters for this stage; the released configuration has 342M
(`coig_flow_342m`). This is the same network, wider. Crops of 12 s, prompts of up to 6 s.
Hardware: docs/pods.md. Quality: not measured.
"""

import dataclasses

from experiments.configs import coig_flow_342m
from experiments.configs.coig_flow_342m import get_objective as get_objective
from gpst_jax.config import FlowConfig, MeshConfig, RunConfig, TransformerConfig


def get_config() -> RunConfig:
    """The run; `data.path` is given on the command line."""
    config = coig_flow_342m.get_config()
    return dataclasses.replace(
        config,
        name="coig_flow_1b",
        model=dataclasses.replace(
            config.model_as(FlowConfig),
            net=TransformerConfig(d_model=1792, num_layers=12, num_heads=14, d_ff=7168),
            remat="dots",
        ),
        data=dataclasses.replace(config.data, batch_size=1024),
        mesh=MeshConfig(replica=-1, fsdp=16),
    )
