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
TASKS = ("pretrain", "interleaved", "asr", "tts", *DIALOGUE)

SEQUENCES = "sequences"
SEQUENCE_SPEC_VERSION = 1


@dataclasses.dataclass(frozen=True)
class TextTokenizerSpec:
    """The tokenizer of text.

    Attributes:
        id: readable name and size.
        sha256: of its file.
        vocab_size: ids are in [0, vocab_size).
        path: its directory, relative to the dataset's.
    """

    id: str
    sha256: str
    vocab_size: int
    path: str


@dataclasses.dataclass(frozen=True)
class SequenceSpec(Sealed):
    """Metadata of a sequence dataset, for readers and models; stored as `dataset.json`.

    Attributes:
        kind: "sequences", absent in token datasets.
        version: of this file's format.
        vocabulary: ids of text, special tokens and units.
        text_tokenizer: the tokenizer of the text.
        semantic: the tokenizer of the units.
        codec: of the token dataset that the units come from, for synthesis.
        silence: tokens of silence of the token dataset.
        sample_rate: of the token dataset, in Hz.
        source_fingerprint: of the token dataset.
        system: system prompt of sequences with an instruction.
        tasks: tasks of the sequences, from `TASKS`.
        train_on: which ids are predicted, from `TRAIN_ON`.
        max_length: longest sequence that was kept, in ids.
        splits: by name; their `hours` count the speech in the sequences.
        statistics: counts of planned, written and failed sequences.
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
        """Raises ValueError if the fields are inconsistent."""
        sizes = self.text_tokenizer.vocab_size, self.semantic.vocab_size
        if (self.vocabulary.text_size, self.vocabulary.num_units) != sizes:
            raise ValueError(
                f"the vocabulary does not match {sizes[0]} text ids and {sizes[1]} units"
            )
        if self.train_on not in TRAIN_ON or not set(self.tasks) <= set(TASKS):
            raise ValueError(f"unknown train_on {self.train_on!r} or tasks {self.tasks}")

    def layout(self) -> TokenLayout:
        """The token layout of the source dataset: units, codes and their rates."""
        return TokenLayout(
            num_units=self.semantic.vocab_size,
            num_codebooks=self.codec.num_codebooks,
            codebook_size=self.codec.codebook_size,
            unit_rate=self.semantic.frame_rate,
            frame_rate=self.codec.frame_rate,
        )

    def mixed_fields(self, specs: Sequence[Self]) -> dict[str, Any]:
        """The union of the tasks, and the longest sequence."""
        tasks = {task for spec in specs for task in spec.tasks}
        return {
            "tasks": tuple(task for task in TASKS if task in tasks),
            "max_length": max(spec.max_length for spec in specs),
        }

    def tokenizer_ids(self) -> tuple[str, ...]:
        """Names of the tokenizers of text, units and codes."""
        return self.text_tokenizer.id, self.semantic.id, self.codec.id


@dataclasses.dataclass(frozen=True, eq=False)
class SequenceIndex(StoredIndex):
    """Lengths of the R sequences of a split, in the order of the shards.

    Attributes:
        lengths: (R,) int32 number of ids.
        task: (R,) int32 index into `tasks`.
        tasks: names.
    """

    lengths: np.ndarray
    task: np.ndarray
    tasks: tuple[str, ...]

    ARRAYS: ClassVar = ("lengths", "task")
    TABLES: ClassVar = {"task": "tasks"}
    LENGTHS: ClassVar = ("lengths",)
