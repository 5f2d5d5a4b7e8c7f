"""GPST-Hi-Res at demo size: 16 codebooks, local-drop 0.5, 500 steps; minutes on two cores.

On the recordings and units of `make demo`, so that its language model reads texts for it too:

    python -m data_pipeline.fit_tokenizers --audio_dir=runs/demo/corpus \
        --transcripts=runs/demo/corpus/manifest.csv --num_codebooks=16 --output=CODEC
    python -m data_pipeline.tokenize_corpus --audio_dir=runs/demo/corpus \
        --transcripts=runs/demo/corpus/manifest.csv --codec=CODEC/codec \
        --semantic=runs/demo/tokens/tokenizers/semantic --output=TOKENS
    python -m experiments.pretrain --config=experiments/configs/gpst_demo_hires.py \
        --workdir=RUN --config.data.path=TOKENS
    python -m experiments.generate --workdir=RUN --lm_workdir=runs/demo/train_lm \
        --audio_dir=runs/demo/corpus --output=SAMPLES

As published, the local transformer sees half of the frames of a segment, whole ones, in training
only; the number of codebooks is that of the dataset, and all weigh the same. Everything else is as
in `gpst_demo`.
Hardware: any. Quality: docs/results.md.
Expected losses: docs/curves/gpst_demo_hires.json (experiments.status --expect).
"""

import dataclasses

from experiments.configs import gpst_demo
from gpst_jax.config import GPSTConfig, RunConfig


def get_config() -> RunConfig:
    """The run; `data.path` is given on the command line."""
    config = gpst_demo.get_config()
    return dataclasses.replace(
        config,
        name="gpst_demo_hires",
        model=dataclasses.replace(
            config.model_as(GPSTConfig),
            local_drop=0.5,
            semantic_weight=1.0,
            codebook_weights="uniform",
        ),
        train=dataclasses.replace(config.train, steps=500),
    )
