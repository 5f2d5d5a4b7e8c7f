"""Datasets of speech tokens: `dataset.json` beside the shards, and the length index of every split.

Models take vocabulary sizes, codebooks and rates from here, never from a tokenizer. The fingerprint
covers everything: the tokenizers, how recordings were cut, and the content of every shard and
index.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np

from data_pipeline.datasets.dataset_json import (
    SPEC_FILE,
    Sealed,
    SplitSpec,
    StoredIndex,
    index_path,
)
from data_pipeline.runtime.files import file_sha256
from data_pipeline.tokens import TokenLayout

FAILURES_FILE = "failures.jsonl"
SEMANTIC_PATH, CODEC_PATH = "tokenizers/semantic", "tokenizers/codec"

__all__ = [
    "SPEC_FILE",
    "SPEC_VERSION",
    "UNKNOWN_SPEAKER",
    "CodecSpec",
    "DatasetSpec",
    "LengthIndex",
    "SilenceSpec",
    "SplitSpec",
    "StreamSpec",
    "file_sha256",
    "index_path",
]

SPEC_VERSION = 1
UNKNOWN_SPEAKER = "unknown"


@dataclasses.dataclass(frozen=True)
class StreamSpec:
    """The tokenizer of the semantic stream.

    Attributes:
        id: readable name of the tokenizer and its sizes.
        sha256: of its stored configuration and weights.
        vocab_size: units are in [0, vocab_size).
        frame_rate: raw units per second, before any de-duplication.
        path: its directory, relative to the dataset's.
    """

    id: str
    sha256: str
    vocab_size: int
    frame_rate: float
    path: str


@dataclasses.dataclass(frozen=True)
class CodecSpec:
    """The codec of the acoustic stream.

    Attributes:
        id: readable name of the codec and its sizes.
        sha256: of its stored configuration and weights.
        num_codebooks: Q, residual codebooks per frame.
        codebook_size: N, entries of each codebook.
        frame_rate: frames per second.
        sample_rate: of the signals that it encodes and decodes, in Hz.
        path: its directory, relative to the dataset's.
    """

    id: str
    sha256: str
    num_codebooks: int
    codebook_size: int
    frame_rate: float
    sample_rate: int
    path: str


@dataclasses.dataclass(frozen=True)
class SilenceSpec:
    """Tokens of digital silence, inserted between joined utterances.

    Attributes:
        seconds: duration of the encoded signal.
        units: its raw semantic units (S,).
        codes: its acoustic codes (Q, T).
    """

    seconds: float
    units: tuple[int, ...]
    codes: tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class DatasetSpec(Sealed):
    """Metadata of a token dataset, for readers and models; stored as `dataset.json`.

    Attributes:
        version: of this file's format.
        sample_rate: to which recordings were resampled, in Hz.
        semantic: the semantic tokenizer.
        codec: the acoustic codec.
        text_tokenizer: reserved for text streams; None.
        languages: of the records, sorted.
        silence: tokens of the silence between joined utterances.
        splits: by name; a split without records is not listed.
        min_seconds: shortest recording that was accepted.
        chunk_seconds: longest record.
        statistics: counts of inputs, records and failures.
        fingerprint: SHA-256 over all of the above, filled in by `sealed`.
    """

    version: int
    sample_rate: int
    semantic: StreamSpec
    codec: CodecSpec
    text_tokenizer: str | None
    languages: tuple[str, ...]
    silence: SilenceSpec
    splits: dict[str, SplitSpec]
    min_seconds: float
    chunk_seconds: float
    statistics: dict[str, int]
    fingerprint: str = ""

    VERSION: ClassVar = SPEC_VERSION
    WRITER: ClassVar = "data_pipeline.tokenize_corpus"
    MODEL_FIELDS: ClassVar = ("semantic", "codec", "silence")

    def layout(self) -> TokenLayout:
        """The token layout of the two streams."""
        return TokenLayout(
            num_units=self.semantic.vocab_size,
            num_codebooks=self.codec.num_codebooks,
            codebook_size=self.codec.codebook_size,
            unit_rate=self.semantic.frame_rate,
            frame_rate=self.codec.frame_rate,
        )

    def mixed_fields(self, specs: Sequence[Self]) -> dict[str, Any]:
        """The union of the languages, and the loosest limits on durations."""
        return {
            "languages": tuple(sorted({code for spec in specs for code in spec.languages})),
            "min_seconds": min(spec.min_seconds for spec in specs),
            "chunk_seconds": max(spec.chunk_seconds for spec in specs),
        }

    def tokenizer_ids(self) -> tuple[str, ...]:
        """Names of the tokenizers of units and codes."""
        return self.semantic.id, self.codec.id


@dataclasses.dataclass(frozen=True, eq=False)
class LengthIndex(StoredIndex):
    """Lengths of the R records of a split, in the order of the shards.

    Attributes:
        units: (R,) int32 number of raw semantic units.
        units_dedup: (R,) int32 number of units after collapsing repeats.
        frames: (R,) int32 number of acoustic frames.
        speaker: (R,) int32 index into `speakers`.
        language: (R,) int32 index into `languages`.
        speakers: names; `unknown` may stand for several speakers.
        languages: language codes.
    """

    units: np.ndarray
    units_dedup: np.ndarray
    frames: np.ndarray
    speaker: np.ndarray
    language: np.ndarray
    speakers: tuple[str, ...]
    languages: tuple[str, ...]

    ARRAYS: ClassVar = ("units", "units_dedup", "frames", "speaker", "language")
    TABLES: ClassVar = {"speaker": "speakers", "language": "languages"}
    LENGTHS: ClassVar = ("units", "units_dedup", "frames")
