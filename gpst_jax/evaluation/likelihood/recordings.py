"""Recordings to the tokens that a model is asked about: one at a time, so that none changes others.

`gpst_jax.synthesis.inputs` does the same for the inputs of generation. This serves the language
model too, which has no codec.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.audio.chunking import chunk_bounds
from data_pipeline.audio.errors import AudioError
from data_pipeline.audio.io import load_audio
from data_pipeline.datasets.kinds import Spec
from data_pipeline.datasets.token_dataset import DatasetSpec
from data_pipeline.runtime.errors import UserError
from data_pipeline.tokenization.shard import align
from data_pipeline.tokenizers import load_codec, load_semantic
from data_pipeline.tokenizers.batching import encode_many

# Limits of tokenisation, where a dataset of sequences does not state them.
_MIN_SECONDS, _CHUNK_SECONDS = 0.1, 30.0


class Recording(NamedTuple):
    """The tokens of a recording.

    Attributes:
        units: (S,) int32.
        codes: (Q, T) int32; None for a model without a codec.
        seconds: duration.
    """

    units: np.ndarray
    codes: np.ndarray | None
    seconds: float


class RecordingEncoder:
    """The tokenizers of a model, loaded with the first recording.

    Attributes:
        key: what tokens depend on besides a recording.

    Args:
        directory: that the paths in `spec` are relative to.
        spec: contract of the model's tokens.
        longest_seconds: of a recording; it bounds the memory that its likelihood takes.
    """

    def __init__(self, directory: str | Path, spec: Spec, longest_seconds: float):
        self._directory, self._spec, self._longest = Path(directory), spec, longest_seconds
        self._with_codec = isinstance(spec, DatasetSpec)
        self._limits = (_MIN_SECONDS, _CHUNK_SECONDS)
        if isinstance(spec, DatasetSpec):
            self._limits = (spec.min_seconds, spec.chunk_seconds)
        codec = spec.codec.sha256 if self._with_codec else ""
        self.key = f"{spec.semantic.sha256} {codec} {spec.sample_rate} {self._limits}"

    def encode(self, path: Path) -> Recording:
        """The tokens of a recording.

        Raises:
            AudioError: it cannot be used; `reason` says why.
            UserError: a tokenizer is missing, or is not the one that the model was trained with.
        """
        rate, layout = self._spec.sample_rate, self._spec.layout()
        least, longest_chunk = self._limits
        wav = load_audio(path, rate, least)
        seconds = len(wav) / rate
        if seconds > self._longest:
            reason = f"lasts {seconds:.1f} s, {self._longest:g} s are scored at once: cut it"
            raise AudioError(reason, path)
        semantic, codec = self._tokenizers
        bounds = chunk_bounds(len(wav), rate, longest_chunk, layout)
        chunks = [wav[start:stop] for start, stop in bounds]
        try:
            units = encode_many(semantic, chunks, rate)
            if codec is None:
                return Recording(np.concatenate(units).astype(np.int32), None, seconds)
            codes = encode_many(codec, chunks, rate)
            parts = [align(layout, *tokens) for tokens in zip(units, codes, strict=True)]
        except ValueError as error:
            raise AudioError(str(error), path) from error
        return Recording(
            np.concatenate([part[0] for part in parts]).astype(np.int32),
            np.concatenate([part[1] for part in parts], axis=1).astype(np.int32),
            seconds,
        )

    @functools.cached_property
    def _tokenizers(self) -> tuple[Any, Any]:
        """Of units, and of codes where the model has them."""
        semantic = load_semantic(self._directory / self._spec.semantic.path)
        self._check(self._spec.semantic, semantic)
        if not self._with_codec:
            return semantic, None
        codec = load_codec(self._directory / self._spec.codec.path)
        self._check(self._spec.codec, codec)
        return semantic, codec

    def _check(self, trained: Any, found: Any) -> None:
        if trained.sha256 != found.sha256:
            raise UserError(
                f"{self._directory / trained.path}: its sha256 is {found.sha256}, the model was "
                f"trained with {trained.sha256} ({trained.id}): give the directory of a dataset of "
                "the same tokenizers as --dataset"
            )
