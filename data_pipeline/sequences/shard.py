"""The work on one shard of sequences: token records in, one shard file and its report out.

`write_shard` is a pure function of its argument and the files named in it. It writes under
temporary names and renames, the report last: a shard whose report exists is finished.
"""

import dataclasses
import functools
import itertools
import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import numpy as np

from data_pipeline.datasets.sequence_records import SequenceRecord, SequenceWriter
from data_pipeline.datasets.token_records import Record, RecordReader
from data_pipeline.runtime.files import file_sha256, write_json
from data_pipeline.sequences.maker import SequenceMaker, Unusable, sequence_id
from data_pipeline.sequences.templates import Template
from data_pipeline.tokenizers.text import load_text_tokenizer
from data_pipeline.tokens.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Dialogue:
    """A question and its answer.

    Attributes:
        id: unique among dialogues.
        split: that it goes to.
        question: (split, number) of its record; None where no record has the id.
        answer: likewise.
        missing: ids that no record has.
    """

    id: str
    split: str
    question: tuple[str, int] | None
    answer: tuple[str, int] | None
    missing: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class SequenceTask:
    """One shard to write.

    Attributes:
        tokens: directory of the token dataset.
        num_units: vocabulary size of its semantic tokenizer.
        text_tokenizer: directory of the text tokenizer.
        split: of the records.
        records: half-open range of records of the split.
        dialogues: to be written after them.
        tasks: (task, copies) of each record.
        dialogue_tasks: (task, copies) of each dialogue.
        train_on: see `templates.Built.loss_mask`.
        system: see `templates.Template`.
        max_length: ids of the longest sequence; longer ones fail.
        seed: seeds the choice of wordings and of spans.
        span_words: see `maker.SequenceMaker`.
        shard: path of the shard file.
        report: path of the report, which marks the shard as finished.
    """

    tokens: str
    num_units: int
    text_tokenizer: str
    split: str
    records: tuple[int, int]
    dialogues: tuple[Dialogue, ...]
    tasks: tuple[tuple[str, int], ...]
    dialogue_tasks: tuple[tuple[str, int], ...]
    train_on: str
    system: str
    max_length: int
    seed: int
    span_words: float
    shard: str
    report: str

    @property
    def num_planned(self) -> int:
        """Sequences that the shard would hold if none failed."""
        records = (self.records[1] - self.records[0]) * sum(copies for _, copies in self.tasks)
        return records + len(self.dialogues) * sum(copies for _, copies in self.dialogue_tasks)

    def is_done(self) -> bool:
        """Whether shard and report exist."""
        return os.path.exists(self.report) and os.path.exists(self.shard)


@dataclasses.dataclass(frozen=True)
class SequenceReport:
    """What a finished shard holds; `lengths` and `task` have one entry per sequence.

    Attributes:
        lengths: ids.
        task: names.
        predicted: number of ids in the loss.
        units: number of units, over all sequences.
        failures: sequences that could not be made: id, task, kind and reason.
        num_bytes: of the serialised records.
        sha256: of the shard file.
    """

    lengths: list[int]
    task: list[str]
    predicted: int
    units: int
    failures: list[dict[str, str]]
    num_bytes: int
    sha256: str

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a report."""
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))


def write_shard(task: SequenceTask) -> SequenceReport:
    """Writes a shard: every planned sequence is in it, or one failure in the report.

    An unreadable record is an error and leaves no report.
    """
    tokenizer = load_text_tokenizer(task.text_tokenizer)
    vocabulary = Vocabulary(tokenizer.vocab_size, task.num_units)
    template = Template(vocabulary, tokenizer, task.system)
    maker = SequenceMaker(template, task.train_on, task.max_length, task.seed, task.span_words)
    lengths: list[int] = []
    names: list[str] = []
    failures: list[dict[str, str]] = []
    predicted = units = 0
    # A unique name: a worker that outlived a killed run may be writing too.
    temporary = f"{task.report}.{uuid.uuid4().hex}.part"
    with SequenceWriter(temporary) as writer:
        for name, kind, copy, make in _planned(task, maker):
            try:
                sequence = make()
            except Unusable as error:
                failure = {"id": sequence_id(name, kind, copy), "task": kind}
                failures.append(failure | {"kind": error.kind, "reason": str(error)})
                continue
            writer.write(sequence)
            lengths.append(len(sequence.ids))
            names.append(kind)
            predicted += int(sequence.loss_mask[1:].sum())
            units += int(np.count_nonzero(vocabulary.is_unit(sequence.ids)))
    report = SequenceReport(
        lengths=lengths,
        task=names,
        predicted=predicted,
        units=units,
        failures=failures,
        num_bytes=writer.num_bytes,
        sha256=file_sha256(temporary),
    )
    os.replace(temporary, task.shard)
    write_json(task.report, dataclasses.asdict(report))
    return report


_Planned = tuple[str, str, int, Callable[[], SequenceRecord]]


def _planned(task: SequenceTask, maker: SequenceMaker) -> Iterator[_Planned]:
    """Every sequence of the shard: name, task, copy, and the call that makes it."""
    readers: dict[str, RecordReader] = {}

    def read(split: str, number: int) -> Record:
        if split not in readers:
            readers[split] = RecordReader(task.tokens, split)
        return readers[split][number]

    for number in range(*task.records):
        record = read(task.split, number)
        for kind, copy in _copies(task.tasks):
            make = functools.partial(maker.from_record, record, kind, copy)
            yield record.id, kind, copy, make
    for dialogue in task.dialogues:
        question = dialogue.question and read(*dialogue.question)
        answer = dialogue.answer and read(*dialogue.answer)
        for kind, copy in _copies(task.dialogue_tasks):
            if question and answer:
                make = functools.partial(
                    maker.from_dialogue, dialogue.id, question, answer, kind, copy
                )
            else:
                make = functools.partial(_refuse, dialogue)
            yield dialogue.id, kind, copy, make


def _copies(tasks: tuple[tuple[str, int], ...]) -> Iterator[tuple[str, int]]:
    return itertools.chain.from_iterable(
        ((kind, copy) for copy in range(copies)) for kind, copies in tasks
    )


def _refuse(dialogue: Dialogue) -> SequenceRecord:
    reason = f"no record of the dataset has the id {', '.join(dialogue.missing)}"
    raise Unusable("no_record", reason)
