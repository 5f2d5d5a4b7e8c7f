"""Turns a token dataset into sequences of text and speech for a language model.

    python -m data_pipeline.build_sequences --tokens=TOKENS --output=DIR \
        --tasks=pretrain,interleaved,asr,tts,dialogue --text_tokenizer=DIR [--dialogue=FILE.jsonl]

`pretrain` writes the units of each record, `interleaved` its transcript and its units in turns,
`asr` and `tts` pair them, and `dialogue` (or one of its four formats) builds questions and answers
from record pairs listed in a file. Every planned sequence ends in a shard or, with a reason, in
`failures.jsonl`. An interrupted run resumes where it stopped and writes the same bytes as an
uninterrupted one. Exit code: 0 when every sequence was written, 3 when some failed.
"""

import dataclasses
import functools
import hashlib
import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from data_pipeline.datasets.dataset_json import SPEC_FILE
from data_pipeline.datasets.sequence_dataset import (
    DIALOGUE,
    TASKS,
    TRAIN_ON,
    SequenceSpec,
    TextTokenizerSpec,
)
from data_pipeline.datasets.sequence_records import shard_name
from data_pipeline.datasets.token_dataset import (
    CODEC_PATH,
    FAILURES_FILE,
    SEMANTIC_PATH,
    DatasetSpec,
)
from data_pipeline.runtime import cli, exit_codes
from data_pipeline.runtime.errors import UserError
from data_pipeline.runtime.files import file_sha256, write_json
from data_pipeline.runtime.output_lock import claimed, remove_leftovers
from data_pipeline.runtime.process_pool import run_all
from data_pipeline.sequences import templates
from data_pipeline.sequences.dialogues import read_dialogues
from data_pipeline.sequences.finish import finish_sequences
from data_pipeline.sequences.shard import Dialogue, SequenceReport, SequenceTask, write_shard
from data_pipeline.sequences.templates import SYSTEM
from data_pipeline.tokenizers.text import load_text_tokenizer, store_text_tokenizer
from data_pipeline.tokens.vocabulary import SPECIALS

TEXT_PATH = "tokenizers/text"
_REPORTS = ".reports"
# About this many shards per split, within these bounds of records per shard.
_SHARDS, _LEAST_PER_SHARD, _MOST_PER_SHARD = 16, 64, 4096


@dataclasses.dataclass(frozen=True)
class SequencesConfig:
    """Settings of a run.

    Attributes:
        tokens: directory of the token dataset.
        output: directory of the sequence dataset.
        text_tokenizer: directory, see `tokenizers.text`.
        tasks: of `sequence_dataset.TASKS`; `dialogue` stands for its four formats.
        dialogue: file of record pairs, see `dialogues`; for dialogue tasks only.
        copies: sequences of each record and task but `pretrain`, with varying wordings or spans.
        max_length: ids of the longest sequence; longer ones fail.
        train_on: one of `sequence_dataset.TRAIN_ON`.
        system: text before the user's turn.
        seed: seeds the choice of wordings and of spans.
        span_words: mean number of words of a span of `interleaved`.
        records_per_shard: 0 chooses by the size of the dataset.
        num_workers: processes; 0 runs in this one.
    """

    tokens: str
    output: str
    text_tokenizer: str
    tasks: tuple[str, ...]
    dialogue: str | None = None
    copies: int = 1
    max_length: int = 2048
    train_on: str = "all"
    system: str = SYSTEM
    seed: int = 0
    span_words: float = 5.0
    records_per_shard: int = 0
    num_workers: int = 0

    def __post_init__(self) -> None:
        """Sorts the tasks; raises UserError for invalid values."""
        names = {*self.tasks} - {"dialogue"} | {*(DIALOGUE if "dialogue" in self.tasks else ())}
        if not names or not names <= set(TASKS):
            raise UserError(
                f"--tasks={','.join(self.tasks)}: choose from {', '.join((*TASKS, 'dialogue'))}"
            )
        object.__setattr__(self, "tasks", tuple(task for task in TASKS if task in names))
        if bool(self.dialogue_tasks) != bool(self.dialogue):
            raise UserError("--dialogue=FILE.jsonl and a dialogue task require each other")
        if self.train_on not in TRAIN_ON:
            raise UserError(f"--train_on={self.train_on}: choose one of {', '.join(TRAIN_ON)}")
        for name in ("copies", "max_length"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name}={getattr(self, name)} must be positive")
        if not 1 <= self.span_words < math.inf:
            raise UserError(f"--span_words={self.span_words} must be at least 1")
        for name in ("records_per_shard", "num_workers", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name}={getattr(self, name)} must not be negative")

    @property
    def record_tasks(self) -> tuple[tuple[str, int], ...]:
        """(task, copies) of every record; units alone have no wording to vary."""
        return tuple(
            (task, 1 if task == "pretrain" else self.copies)
            for task in self.tasks
            if task not in DIALOGUE
        )

    @property
    def dialogue_tasks(self) -> tuple[tuple[str, int], ...]:
        """(task, copies) of every dialogue."""
        return tuple((task, self.copies) for task in self.tasks if task in DIALOGUE)


def build_sequences(config: SequencesConfig) -> dict[str, Any]:
    """Builds a dataset of sequences, or resumes a run that does.

    Returns:
        For `--json_out`: `output`, `fingerprint` (None when no sequence was made), `statistics`,
        `splits`, `vocabulary`, `failures_file`, `resumed_shards`, `seconds` (of this run).

    Raises:
        UserError: inputs that cannot be read, a directory that cannot be written, or one that holds
            a run with other settings or inputs.
    """
    began = time.monotonic()
    source = DatasetSpec.load(config.tokens)
    dialogues: Sequence[Dialogue] = ()
    if config.dialogue:
        dialogues = read_dialogues(config.dialogue, config.tokens, source.splits)
    output = Path(config.output).absolute()
    with claimed(output, _description(config, source)):
        remove_leftovers(output)
        if (output / SPEC_FILE).exists():
            shutil.rmtree(output / _REPORTS, ignore_errors=True)
            finished = SequenceSpec.load(output)
            _check_shards(output, finished)
            return _result(output, finished, finished.statistics["planned"], 0, began)
        text = _provide_tokenizers(output, config, source)
        tasks = _plan_shards(config, source, dialogues, output)
        shards = [task for split in tasks.values() for task in split]
        planned = sum(task.num_planned for task in shards)
        pending = [task for task in shards if not task.is_done()]
        run_all("build sequences", write_shard, pending, _planned_of, config.num_workers)
        spec = finish_sequences(
            output,
            {
                split: [SequenceReport.load(task.report) for task in members]
                for split, members in tasks.items()
            },
            source,
            text,
            planned,
            {name: getattr(config, name) for name in ("system", "train_on", "max_length")},
        )
        if spec is not None:
            shutil.rmtree(output / _REPORTS, ignore_errors=True)
        return _result(output, spec, planned, len(shards) - len(pending), began)


def _check_shards(output: Path, spec: SequenceSpec) -> None:
    for name, split in spec.splits.items():
        for number in range(split.num_shards):
            path = output / shard_name(name, number, split.num_shards)
            if not path.is_file():
                raise UserError(f"{path} is missing: restore it, or delete {output} and run again")


def _planned_of(task: SequenceTask) -> int:
    return task.num_planned


def _description(config: SequencesConfig, source: DatasetSpec) -> dict[str, Any]:
    """All that determines the run's output."""
    values = dataclasses.asdict(config)
    for name in ("tokens", "output", "num_workers"):
        del values[name]
    if "interleaved" not in config.tasks:  # as in directories that are older than the task
        del values["span_words"]
    wordings = "\n".join((*SPECIALS, *templates.all_texts()))
    return values | {
        "dialogue": file_sha256(config.dialogue) if config.dialogue else None,
        "source": source.fingerprint,
        "text_tokenizer": load_text_tokenizer(config.text_tokenizer).sha256,
        "wordings_sha256": hashlib.sha256(wordings.encode()).hexdigest(),
    }


def _provide_tokenizers(
    output: Path, config: SequencesConfig, source: DatasetSpec
) -> TextTokenizerSpec:
    """Copies all three tokenizers into the dataset: it is all that generating speech needs."""
    text = store_text_tokenizer(config.text_tokenizer, output / TEXT_PATH)
    for path, target in ((source.semantic.path, SEMANTIC_PATH), (source.codec.path, CODEC_PATH)):
        original = Path(config.tokens) / path
        if original.is_dir() and not (output / target).exists():
            temporary = (output / target).with_name(f".{Path(target).name}.copy")
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(original, temporary)
            temporary.replace(output / target)
    return TextTokenizerSpec(text.id, text.sha256, text.vocab_size, TEXT_PATH)


def _plan_shards(
    config: SequencesConfig, source: DatasetSpec, dialogues: Sequence[Dialogue], output: Path
) -> dict[str, list[SequenceTask]]:
    """Shards of every split: first those of its records, then those of its dialogues."""
    reports = output / _REPORTS
    reports.mkdir(exist_ok=True)
    tasks: dict[str, list[SequenceTask]] = {}
    for split in source.splits:
        number = source.splits[split].num_records if config.record_tasks else 0
        parts: list[tuple[tuple[int, int], tuple[Dialogue, ...]]] = [
            (bounds, ()) for bounds in _cut(number, config.records_per_shard)
        ]
        members = [dialogue for dialogue in dialogues if dialogue.split == split]
        parts += [
            ((0, 0), tuple(members[start:stop]))
            for start, stop in _cut(len(members), config.records_per_shard)
        ]
        make = functools.partial(
            SequenceTask,
            tokens=config.tokens,
            num_units=source.semantic.vocab_size,
            text_tokenizer=str(output / TEXT_PATH),
            split=split,
            tasks=config.record_tasks,
            dialogue_tasks=config.dialogue_tasks,
            train_on=config.train_on,
            system=config.system,
            max_length=config.max_length,
            seed=config.seed,
            span_words=config.span_words,
        )
        if parts:
            tasks[split] = [
                make(
                    records=bounds,
                    dialogues=pairs,
                    shard=str(output / shard_name(split, place, len(parts))),
                    report=str(reports / f"{split}-{place:05d}.json"),
                )
                for place, (bounds, pairs) in enumerate(parts)
            ]
    return tasks


def _cut(number: int, size: int) -> list[tuple[int, int]]:
    """Ranges of at most `size` that cover `number`; 0 chooses a size."""
    size = size or min(max(math.ceil(number / _SHARDS), _LEAST_PER_SHARD), _MOST_PER_SHARD)
    return [(start, min(start + size, number)) for start in range(0, number, size)]


def _result(
    output: Path, spec: SequenceSpec | None, planned: int, resumed: int, began: float
) -> dict[str, Any]:
    return {
        "output": str(output),
        "fingerprint": spec.fingerprint if spec else None,
        "statistics": spec.statistics if spec else {"planned": planned, "failed": planned},
        "splits": {name: dataclasses.asdict(split) for name, split in spec.splits.items()}
        if spec
        else {},
        "vocabulary": spec.vocabulary.size if spec else None,
        "failures_file": str(output / FAILURES_FILE),
        "resumed_shards": resumed,
        "seconds": time.monotonic() - began,
    }


def _define_flags() -> None:
    """Defined when run as a program only: other programs import this module."""
    flags.DEFINE_string("tokens", None, "Directory of a token dataset.", required=True)
    flags.DEFINE_string("output", None, "Directory of the sequences.", required=True)
    flags.DEFINE_string(
        "text_tokenizer",
        None,
        "Directory with tokenizer.model (sentencepiece) or tokenizer.json (Hugging Face).",
        required=True,
    )
    flags.DEFINE_list("tasks", None, f"From {', '.join((*TASKS, 'dialogue'))}.", required=True)
    flags.DEFINE_string(
        "dialogue", None, "JSONL file of id, split, question_record and answer_record."
    )
    flags.DEFINE_integer(
        "copies", 1, "Sequences of each record and task but pretrain: other wordings or spans."
    )
    flags.DEFINE_integer("max_length", SequencesConfig.max_length, "Ids of the longest sequence.")
    flags.DEFINE_enum(
        "train_on", "all", TRAIN_ON, "The loss is on both turns, or on the answer only."
    )
    flags.DEFINE_string(
        "system", SYSTEM, "System text at the beginning of sequences with an instruction."
    )
    flags.DEFINE_integer("seed", 0, "Seeds the choice of wordings and of spans.")
    flags.DEFINE_float("span_words", 5.0, "Mean number of words of a span of the task interleaved.")
    flags.DEFINE_integer("records_per_shard", 0, "0 chooses by the size of the dataset.")
    flags.DEFINE_integer("num_workers", os.cpu_count() or 1, "Processes; 0 runs in this one.")


def main(argv: list[str]) -> int:
    """Runs the program; see the module."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: flags are written --name=value")
    names = [field.name for field in dataclasses.fields(SequencesConfig)]
    values = {name: getattr(flags.FLAGS, name) for name in names}
    values["tasks"] = tuple(values["tasks"])
    result = build_sequences(SequencesConfig(**values))
    if cli.JSON_OUT.value:
        write_json(cli.JSON_OUT.value, result)
    for name, split in result["splits"].items():
        print(
            f"{name}: {split['num_records']} sequences, {split['num_shards']} shards, "
            f"{split['hours']:.3f} h of speech"
        )
    counts, failed = result["statistics"], result["statistics"]["failed"]
    if failed:
        where = result["failures_file"]
        print(
            f"{failed} of {counts['planned']} sequences failed: reasons in {where}", file=sys.stderr
        )
    if not result["splits"]:
        print("error: no sequence could be made, there is no dataset", file=sys.stderr)
    return exit_codes.PARTIAL if failed else exit_codes.OK


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
