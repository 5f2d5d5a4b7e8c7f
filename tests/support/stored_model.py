"""A tiny GPST in a checkpoint, with a dataset contract and tokenizers beside it."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.datasets.token_dataset import (
    SPEC_VERSION,
    CodecSpec,
    DatasetSpec,
    SilenceSpec,
    SplitSpec,
    StreamSpec,
)
from data_pipeline.tokenizers.codecs.mel_rvq import MelRVQ, MelRVQConfig
from data_pipeline.tokenizers.semantic.mfcc_kmeans import MFCCKMeans, MFCCKMeansConfig
from data_pipeline.tokenizers.storage import save_tokenizer
from gpst_jax.checkpoints import record as run_record
from gpst_jax.checkpoints.manager import Checkpoints
from gpst_jax.config import DataConfig, GPSTConfig, RunConfig, TrainConfig, TransformerConfig
from gpst_jax.models import gpst

UNITS, CODES = 12, 8


def save_codec(directory: Path, codebooks: int, frame_rate: float) -> str:
    """Writes a codec that was fitted on nothing; returns its SHA-256."""
    rng = np.random.default_rng(0)
    codec = MelRVQConfig(frame_rate=frame_rate, num_codebooks=codebooks, codebook_size=CODES)
    vectors = {
        "mean": np.zeros(codec.num_mels, np.float32),
        "codebooks": rng.normal(size=(codebooks, CODES, codec.num_mels)).astype(np.float32),
        "smoothers": np.zeros((codebooks, 3 * codec.num_mels, codec.num_mels), np.float32),
    }
    return save_tokenizer(directory, MelRVQ.kind, codec, vectors)


def make_dataset(directory: Path, codebooks: int) -> DatasetSpec:
    """Writes tokenizers, which were fitted on nothing, and the contract; there are no shards."""
    rng = np.random.default_rng(0)
    units = MFCCKMeansConfig(vocab_size=UNITS)
    features = 3 * units.num_coefficients
    clusters = {
        "mean": np.zeros(features, np.float32),
        "deviation": np.ones(features, np.float32),
        "centroids": rng.normal(size=(UNITS, features)).astype(np.float32),
    }
    where = directory / "tokenizers"
    sha256 = {
        "semantic": save_tokenizer(where / "semantic", MFCCKMeans.kind, units, clusters),
        "codec": save_codec(where / "codec", codebooks, frame_rate=100.0),
    }
    spec = DatasetSpec(
        version=SPEC_VERSION,
        sample_rate=16000,
        semantic=StreamSpec("units", sha256["semantic"], UNITS, 50.0, "tokenizers/semantic"),
        codec=CodecSpec(
            "codec", sha256["codec"], codebooks, CODES, 100.0, 16000, "tokenizers/codec"
        ),
        text_tokenizer=None,
        languages=("eng",),
        silence=SilenceSpec(0.1, (7,) * 5, ((1,) * 10,) * codebooks),
        splits={"train": SplitSpec(24, 1, 0.01, "0", "0")},
        min_seconds=0.1,
        chunk_seconds=30.0,
        statistics={},
    ).sealed()
    spec.save(directory)
    return spec


def make_config(dataset: Path, block: str = "modern", shared: bool = False, **fields) -> RunConfig:
    """A run of two layers in both networks; `fields` are the model's."""
    wide = TransformerConfig(d_model=16, num_layers=2, num_heads=2, d_ff=24)
    narrow = TransformerConfig(d_model=8, num_layers=2, num_heads=2, d_ff=12)
    return RunConfig(
        name="tiny",
        model=GPSTConfig(
            wide, narrow, block=block, shared_acoustic_head=shared, max_positions=100, **fields
        ),
        data=DataConfig(
            path=str(dataset),
            batch_size=2,
            sequence_length=80,
            frame_budget=56,
            crop_seconds=0.5,
            positions="time" if block == "modern" else "running",
        ),
        train=TrainConfig(steps=4),
    )


def random_params(config: RunConfig, spec: DatasetSpec, seed: int = 0) -> dict:
    """Parameters drawn by NumPy: no gain is 1 and no bias 0, so that a forgotten one shows."""
    shapes = jax.eval_shape(
        functools.partial(gpst.init, config.model_as(GPSTConfig), spec.layout()), jax.random.key(0)
    )
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name, noise = path[-1].key, rng.normal(size=leaf.shape)
        if name in ("scale", "bias"):
            noise = (name == "scale") + 0.1 * noise
        else:
            fan_in = leaf.shape[-2] if name == "kernel" else leaf.shape[-1]
            noise = noise * fan_in**-0.5
        return jnp.asarray(noise, jnp.float32)

    return jax.tree.map_with_path(draw, shapes)


def save_run(
    workdir: Path, config: RunConfig, spec: DatasetSpec, items_by_step: dict[int, dict]
) -> None:
    """Saves items (`params`, perhaps `ema`) as checkpoints of a run."""
    saves = Checkpoints(workdir, keep_latest=len(items_by_step))
    record = run_record.describe_run(config, "GPSTObjective", dataclasses.asdict(spec))
    for step, items in items_by_step.items():
        saves.save(step, items, json.loads(json.dumps(record | {"step": step})))
        saves.wait()
    saves.close()


@dataclasses.dataclass(frozen=True)
class Stored:
    """A model in memory and where it is stored."""

    workdir: Path
    config: RunConfig
    spec: DatasetSpec
    params: Any


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """Function (block, shared head, codebooks) -> a run with one checkpoint."""

    @functools.cache
    def make(block: str = "modern", shared: bool = False, codebooks: int = 8) -> Stored:
        directory = tmp_path_factory.mktemp("stored")
        spec = make_dataset(directory / "dataset", codebooks)
        config = make_config(directory / "dataset", block, shared)
        params = random_params(config, spec)
        save_run(directory / "run", config, spec, {4: {"params": params}})
        return Stored(directory / "run", config, spec, params)

    return make
