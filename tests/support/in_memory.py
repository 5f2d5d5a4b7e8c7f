"""A model in memory as a source of arrays, with the files that go with it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from stored_model import make_dataset

from data_pipeline.datasets.dataset_json import SplitSpec
from data_pipeline.datasets.sequence_dataset import (
    SEQUENCE_SPEC_VERSION,
    SEQUENCES,
    SequenceSpec,
    TextTokenizerSpec,
)
from data_pipeline.fit_text_tokenizer import train
from data_pipeline.sequences import templates
from data_pipeline.tokenizers.text import MODEL_FILE, load_text_tokenizer
from data_pipeline.tokens.vocabulary import Vocabulary
from gpst_jax.config import RunConfig
from gpst_jax.parallel.sharding import path_string
from gpst_jax.weights.sources import Description


class MemorySource:
    """See `gpst_jax.weights.sources.Source`."""

    def __init__(self, config: RunConfig, params: Any, spec: Any, files: Path, family: str):
        leaves = jax.tree.leaves_with_path(params)
        self.arrays = {path_string(path): np.asarray(leaf) for path, leaf in leaves}
        self.files, self.evaluation = files, None
        dataset = json.loads(json.dumps(dataclasses.asdict(spec)))
        self.description = Description(config, dataset, 3, family, "parameters", "0", "0")

    def shapes(self):
        return {
            path: jax.ShapeDtypeStruct(array.shape, array.dtype)
            for path, array in self.arrays.items()
        }

    def stream(self, path, budget):
        yield 0, self.arrays[path]


def make_sequences(directory: Path) -> SequenceSpec:
    """Tokenizers of text and speech and the contract of sequences; there are no shards."""
    tokens = make_dataset(directory, 2)
    path = directory / "tokenizers" / "text"
    path.mkdir()
    texts = [f"{i} one two three four five six seven" for i in range(200)]
    (path / MODEL_FILE).write_bytes(train([*texts, *templates.all_texts()], 400))
    text = load_text_tokenizer(path)
    spec = SequenceSpec(
        kind=SEQUENCES,
        version=SEQUENCE_SPEC_VERSION,
        vocabulary=Vocabulary(text.vocab_size, tokens.semantic.vocab_size),
        text_tokenizer=TextTokenizerSpec(text.id, text.sha256, text.vocab_size, "tokenizers/text"),
        semantic=tokens.semantic,
        codec=tokens.codec,
        silence=tokens.silence,
        sample_rate=tokens.sample_rate,
        source_fingerprint=tokens.fingerprint,
        system="",
        tasks=("asr",),
        train_on="all",
        max_length=100,
        splits={"train": SplitSpec(24, 1, 0.01, "0", "0")},
        statistics={},
    ).sealed()
    spec.save(directory)
    return spec
