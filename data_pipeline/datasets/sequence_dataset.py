"""Datasets of sequences of text and units: their `dataset.json` and length index."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np

from data_pipeline.datasets.dataset_json import Sealed, SplitSpec, StoredIndex
from data_pipeline.datasets.token_dataset import CodecSpec, SilenceSpec, StreamSpec
from data_pipeline.tokens import TokenLayout
from data_pipeline.tokens.vocabulary import Vocabulary

TRAIN_ON = ("all", "answer")
DIALOGUE = ("speech_to_speech", "speech_to_text", "text_to_speech", "text_to_text")
TASKS = ("pretrain", "asr", "tts", *DIALOGUE)

SEQUENCES = "sequences"
SEQUENCE_SPEC_VERSION = 1


@dataclasses.dataclass(frozen=True)
class TextTokenizerSpec:
    """The tokenizer of text.

    Attributes:
        id: readable name and size.
        sha256: of its file.
        vocab_size: ids are 0 .. vocab_size - 1.
        path: its directory, relative to the dataset's.
    """

    id: str
    sha256: str
    vocab_size: int
    path: str


@dataclasses.dataclass(frozen=True)
class SequenceSpec(Sealed):
    """Everything that a reader of the sequences, or a model of them, must know.

    Attributes:
        kind: tells these datasets apart from those of tokens.
        version: of this file's format.
        vocabulary: ids of text, markers and units.
        text_tokenizer: of the text.
        semantic: of the units.
        codec: of the dataset that the units come from: the way back to sound.
        silence: tokens of silence, of that dataset.
        sample_rate: of that dataset, in Hz.
        source_fingerprint: of that dataset.
        system: text that sequences with an instruction begin with.
        tasks: what sequences there are, of `templates.TASKS`.
        train_on: which roles are predicted, of `templates.TRAIN_ON`.
        max_length: ids of the longest sequence that was taken.
        splits: by name; `hours` counts the speech in the sequences.
        statistics: where every planned sequence went.
        fingerprint: SHA-256 over all of the above, filled in by `sealed`.
    """

    kind: str
    version: int
    vocabulary: Vocabulary
    text_tokenizer: TextTokenizerSpec
    semantic: StreamSpec
    codec: CodecSpec
    silence: SilenceSpec
    sample_rate: int
    source_fingerprint: str
    system: str
    tasks: tuple[str, ...]
    train_on: str
    max_length: int
    splits: dict[str, SplitSpec]
    statistics: dict[str, int]
    fingerprint: str = ""

    KIND: ClassVar = SEQUENCES
    VERSION: ClassVar = SEQUENCE_SPEC_VERSION
    WRITER: ClassVar = "data_pipeline.build_sequences"
    MODEL_FIELDS: ClassVar = ("vocabulary", "text_tokenizer", "semantic", "codec", "system")

    def __post_init__(self) -> None:
        """Raises ValueError for parts that do not agree."""
        sizes = self.text_tokenizer.vocab_size, self.semantic.vocab_size
        if (self.vocabulary.text_size, self.vocabulary.num_units) != sizes:
            raise ValueError(f"the vocabulary is not that of {sizes[0]} text ids, {sizes[1]} units")
        if self.train_on not in TRAIN_ON or not set(self.tasks) <= set(TASKS):
            raise ValueError(f"unknown train_on {self.train_on!r} or tasks {self.tasks}")

    def layout(self) -> TokenLayout:
        """The token layout of the source: units, codes and their rates."""
        return TokenLayout(
            num_units=self.semantic.vocab_size,
            num_codebooks=self.codec.num_codebooks,
            codebook_size=self.codec.codebook_size,
            unit_rate=self.semantic.frame_rate,
            frame_rate=self.codec.frame_rate,
        )

    def mixed_fields(self, specs: Sequence[Self]) -> dict[str, Any]:
        """Tasks of all, and the longest sequence."""
        tasks = {task for spec in specs for task in spec.tasks}
        return {
            "tasks": tuple(task for task in TASKS if task in tasks),
            "max_length": max(spec.max_length for spec in specs),
        }

    def tokenizer_ids(self) -> tuple[str, ...]:
        """Of text, units and codes."""
        return self.text_tokenizer.id, self.semantic.id, self.codec.id


@dataclasses.dataclass(frozen=True, eq=False)
class SequenceIndex(StoredIndex):
    """Lengths of the R sequences of a split, in the order of the shards.

    Attributes:
        lengths: (R,) int32 ids.
        task: (R,) int32 row of `tasks`.
        tasks: names.
    """

    lengths: np.ndarray
    task: np.ndarray
    tasks: tuple[str, ...]

    ARRAYS: ClassVar = ("lengths", "task")
    TABLES: ClassVar = {"task": "tasks"}
    LENGTHS: ClassVar = ("lengths",)
